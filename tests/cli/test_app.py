from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import velatura.cli.app as command
from velatura.errors import ModelError, NumericError, RecipeError, VelaturaError

Run = Callable[..., Any]

# what a fresh interpreter has loaded after `velatura --help`; each hundred modules cost about 40 ms
MODULES_AFTER_HELP = 250
MODULES_AFTER_SUB_HELP = 400  # typer asks pydantic to read the types of options
HEAVY = (
    "torch",
    "numpy",
    "diffusers",
    "transformers",
    "rich",
    "PIL",
    "huggingface_hub",
    "velatura.recipe.recipe",
)


def fresh(*words: str) -> tuple[int, set[str], str]:
    """Exit code, the modules that were imported, and standard error of a command in a process of its own."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('MODULES', *sys.modules, file=sys.stdout))\n"
        "from velatura.cli.app import main\n"
        f"sys.exit(main({list(words)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode, set(done.stdout.rpartition("MODULES")[2].split()), done.stderr


@pytest.mark.parametrize(
    "words", [("--help",), ("train", "--help"), ("generate", "-h"), ("recipe", "new", "--help")]
)
def test_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    code, modules, _ = fresh(*words)
    assert code == 0
    assert not [name for name in HEAVY if name in modules]
    assert len(modules) < (MODULES_AFTER_HELP if words == ("--help",) else MODULES_AFTER_SUB_HELP)


def test_help_is_quick() -> None:
    # 0.13 s of CPU time where it was measured; ten times that still tells an import of torch from none
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "velatura.cli.app", "--help"], capture_output=True, text=True, check=True
    )
    assert "train" in done.stdout
    assert time.perf_counter() - begun < 3.0


def test_a_bad_recipe_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('name = "a"\nlr = 1.0\n')
    code, modules, err = fresh("train", str(bad))
    assert code == 2
    assert "torch" not in modules
    assert "diffusers" not in modules
    assert err.startswith(f"error: {bad} has ")
    assert "line 2: lr" in err
    assert "Traceback" not in err


def test_no_words_show_the_help(velatura: Run) -> None:
    ended = velatura()
    assert "Usage: velatura" in ended.out + ended.err


def test_version(velatura: Run) -> None:
    ended = velatura("--version")
    assert (ended.code, ended.out) == (0, "velatura 0.1.0\n")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("trian", "x"), "Did you mean 'train'?"),
        (("train", "x", "--resum"), "Possible options: --resume"),
        (("train",), "RECIPE"),
        (("generate", "--out", "x.png", "--precision", "bf17"), "'bf16'"),
        (("generate", "--out", "x.png", "--count", "0"), "--count"),
    ],
)
def test_wrong_words_exit_2_with_a_hint(velatura: Run, words: tuple[str, ...], hint: str) -> None:
    ended = velatura(*words)
    assert ended.code == 2
    assert hint in ended.err


@pytest.mark.parametrize(
    ("error", "code"),
    [(RecipeError("r"), 2), (ModelError("m"), 2), (NumericError("n"), 1), (VelaturaError("v"), 1)],
)
def test_errors_for_the_user_have_no_traceback(
    monkeypatch: pytest.MonkeyPatch, velatura: Run, error: VelaturaError, code: int
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(command, "app", fail)
    ended = velatura()
    assert (ended.code, ended.err) == (code, f"error: {error}\n")


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "the right to use it")]
)
def test_what_the_disk_refuses_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, velatura: Run, number: int, remedy: str
) -> None:
    def fail(**_: Any) -> None:
        raise OSError(number, "refused", "a/file")

    monkeypatch.setattr(command, "app", fail)
    ended = velatura()
    assert ended.code == 1
    assert ended.err.startswith("error: refused: a/file; ")
    assert remedy in ended.err


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, velatura: Run) -> None:
    def fail(**_: Any) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(command, "app", fail)
    ended = velatura()
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "KeyError: 'oops'" in ended.err
    assert "this is a bug" in ended.err


def test_an_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch, velatura: Run) -> None:
    def fail(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "app", fail)
    ended = velatura()
    assert (ended.code, ended.err) == (130, "interrupted\n")


def test_an_interrupt_within_a_command_is_told_too(monkeypatch: pytest.MonkeyPatch, velatura: Run) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("velatura.recipe.starter.starter", fail)
    ended = velatura("recipe", "new", "pocket-lora")
    assert (ended.code, ended.err) == (130, "interrupted\n")
