from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from velatura.cli.generate import parse_lora, parse_size
from velatura.errors import RecipeError

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("text", "size"), [("1024x768", (1024, 768)), ("96X96", (96, 96)), (" 8×16 ", (8, 16))]
)
def test_size(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["1024", "x", "1024x", "-1x5", "1.5x2", "10x10x10", "999999x1"])
def test_wrong_size(text: str) -> None:
    with pytest.raises(RecipeError, match="WIDTHxHEIGHT"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "file", "weight"),
    [
        ("dog.safetensors", "dog.safetensors", 1.0),
        ("dog.safetensors:0.8", "dog.safetensors", 0.8),
        ("a/b.safetensors:-1", "a/b.safetensors", -1.0),
        ("C:\\loras\\dog.safetensors", "C:\\loras\\dog.safetensors", 1.0),
        ("C:/loras/dog.safetensors:0.5", "C:/loras/dog.safetensors", 0.5),
    ],
)
def test_lora(text: str, file: str, weight: float) -> None:
    assert parse_lora(text) == (Path(file), weight)


@pytest.mark.parametrize("weight", ["strong", "nan", "-inf", "1e999"])
def test_wrong_lora(weight: str) -> None:
    with pytest.raises(RecipeError, match="FILE:WEIGHT"):
        parse_lora(f"dog.safetensors:{weight}")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--out", "x.png"), "nothing to paint"),
        (("--out", "x.png", "--prompt", "a", "--size", "big"), 'received --size "big"'),
        (
            ("--out", "x.png", "--prompt", "a", "--model", "m", "--recipe", "r.toml"),
            "one of --model ID and --recipe",
        ),
        (("--out", "x.png", "--prompt", "a", "--model", ""), "--model is empty; allowed: pocket/flux, a"),
    ],
)
def test_refusals(velatura: Run, words: tuple[str, ...], expected: str) -> None:
    ended = velatura("generate", *words)
    assert ended.code == 2
    assert expected in ended.err


def test_guidance_that_the_model_does_not_read_is_refused(velatura: Run, tmp_path: Path) -> None:
    """Told from the headers, before anything is painted."""
    ended = velatura("generate", "--out", tmp_path / "x.png", "--prompt", "a cube", "--guidance", "3.5")
    assert ended.code == 2
    assert (
        "guidance = 3.5 was received, and this model (flux undistilled) has no distilled guidance"
        in ended.err
    )
    assert "Leave it out; classifier-free guidance is cfg" in ended.err
    assert not (tmp_path / "x.png").exists()


def test_ctrl_c_keeps_and_tells_what_was_painted(
    velatura: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted: list[Any] = []

    def paint(pipeline: Any, request: Any, **_: Any) -> list[Image.Image]:
        if painted:
            raise KeyboardInterrupt
        painted.append(request)
        return [Image.new("RGB", (request.width, request.height))]

    monkeypatch.setattr("velatura.sampling.pipeline.Pipeline.paint", paint)
    ended = velatura("generate", "--out", tmp_path / "x.png", "--prompt", "a cube", "--count", "3")
    assert (ended.code, ended.out) == (130, f"{tmp_path / 'x-000.png'}\n")
    assert ended.err.endswith("interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["x-000.png"]


def test_names_that_a_terminal_cannot_show_are_no_bug(
    velatura: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "velatura.sampling.pipeline.Pipeline.paint",
        lambda pipeline, request, **_: [Image.new("RGB", (request.width, request.height))],
    )
    ended = velatura("generate", "--out", tmp_path / "caf\udce9.png", "--prompt", "a cube")
    assert ended.code == 0, ended.err
    assert ended.out == f"{tmp_path}/caf\\udce9.png\n"


def test_a_budget_that_cannot_be_met_ends_with_3(velatura: Run, tiny_model: Path, tmp_path: Path) -> None:
    words = (
        "generate",
        "--model",
        tiny_model,
        "--prompt",
        "a",
        "--device",
        "cpu",
        "--out",
        tmp_path / "x.png",
    )
    done = velatura(*words, "--memory", "1MiB")
    assert done.code == 3
    assert "painting does not fit in 1.0 MiB of cpu: it needs" in done.err
    assert not (tmp_path / "x.png").exists()
    assert velatura(*words, "--memory", "much").code == 2
    done = velatura(*words, "--memory", "2GiB")
    assert done.code == 0
    assert "planned for 2.0 GiB of cpu: nothing has to change; it needs at most 0.9 GiB" in done.err
