"""Arguments that no benchmark can use: exit code 2 and what was received, before anything is measured."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

CASES = [
    ("gpu", "--arms nope,512", "'nope', allowed: 512, 512x4,"),
    ("gpu", "--steps 0", "'0', allowed: a whole number of at least 1"),
    ("gpu", "--peak 0", "'0', allowed: a number above 0"),
    ("sample", "--rounds 0", "'0'"),
    ("sample", "--batch 1 -4", "'-4'"),
    ("sample", "--device nocard", "'nocard'"),
    ("step", "--rounds 2.5", "'2.5'"),
    ("step", "--threads two", "'two'"),
    ("step", "--peers nowhere", "'nowhere', allowed: a folder that is there"),
    ("cache", "--photos 100", "'100', allowed: WIDTHxHEIGHT"),
    ("cache", "--photos 300x200 0x8", "'0x8'"),
    ("cache", "--count 0", "'0'"),
    ("updates", "--values 0", "'0', allowed: a whole number of at least 4096"),
    ("updates", "--values nan", "'nan'"),
    ("stream", "--predict 4090 nocard", "'nocard'"),
    ("stream", "--shares 0.5 1.5", "'1.5', allowed: a number from 0 to 1"),
    ("stream", "--size 250", "'250', allowed: a whole number of at least 16, a multiple of 16"),
    ("quant", "--pictures 1", "'1', allowed: a whole number of at least 2"),
    ("quant", "--width 63", "'63'"),
    ("memory", "--blocks 1 0", "'0'"),
    ("startup", "--repeats 0", "'0'"),
    ("text_cache", "--items 0", "'0'"),
    ("data", "--count 0", "'0'"),
]
ALL = (
    "cache",
    "data",
    "gpu",
    "memory",
    "quant",
    "sample",
    "startup",
    "step",
    "stream",
    "text_cache",
    "updates",
)


def told(
    name: str, given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What a benchmark says of arguments that it refuses; nothing may have been printed as a figure."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *given])
    with pytest.raises(SystemExit) as ended:
        import_module(name).main()
    assert ended.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    return error


@pytest.mark.parametrize(("name", "given", "said"), CASES)
def test_what_is_refused(
    name: str, given: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = told(name, given.split(), monkeypatch, capsys)
    assert f"argument {given.split()[0]}: " in error
    assert said in error


@pytest.mark.parametrize("name", ALL)
def test_a_file_that_cannot_be_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x.json", tmp_path):
        error = told(name, ["--json", str(path)], monkeypatch, capsys)
        assert f"argument --json: received '{path}', allowed: " in error


def test_all_benchmarks_are_here() -> None:
    here = Path(__file__).parents[2] / "benchmarks"
    assert sorted(path.stem for path in here.glob("*.py") if "def main()" in path.read_text("utf-8")) == list(
        ALL
    )


def test_what_is_read(tmp_path: Path) -> None:
    arguments: Any = import_module("arguments")
    assert arguments.at_least(4096)("8e6") == 8_000_000
    assert arguments.at_least(16, step=16)("32") == 32
    assert arguments.count("1") == 1
    assert (arguments.share("0"), arguments.share("1")) == (0, 1)
    assert arguments.size("1536x1024") == (1536, 1024)
    assert arguments.names(["a", "b", "c"])("c,a") == ["c", "a"]
    assert arguments.device("cpu").type == "cpu"
    assert arguments.planned_device("4090") == "4090"
    assert import_module("quant").pictures("0") == 0


def test_the_folder_of_a_file_is_made(tmp_path: Path) -> None:
    arguments: Any = import_module("arguments")
    path = tmp_path / "one" / "two" / "figures.json"
    assert arguments.file(str(path)) == path
    assert path.parent.is_dir()
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "inf", "nan", "1e400", "-1", "1.5", "0"])
def test_no_count(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"received '{text}'"):
        import_module("arguments").count(text)


def test_without_a_gpu_only_the_toy_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = import_module("velatura.placement.device")
    monkeypatch.setattr(device, "choose_device", lambda name: import_module("torch").device("cpu"))
    assert "--toy" in told("gpu", ["--steps", "1"], monkeypatch, capsys)
