from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., Any]


def test_concept_and_check(velatura: Run, tmp_path: Path) -> None:
    ended = velatura("pocket", "concept", "--out", tmp_path / "snow", "--count", "3", "--seed", "2")
    assert ended.code == 0, ended.err
    captions = [path.read_text("utf-8") for path in sorted((tmp_path / "snow").glob("*.txt"))]
    assert len(captions) == 3
    assert all("snowman" in caption for caption in captions)
    score = json.loads(velatura("pocket", "check", tmp_path / "snow", "--json").out)
    assert score["pictures"] == 3
    assert score["overall"]["shape"]["stated"] >= 3


def test_render_goes_on_where_it_was(velatura: Run, tmp_path: Path) -> None:
    assert velatura("pocket", "render", "--out", tmp_path, "--count", "2", "--size", "32").code == 0
    first = (tmp_path / "000000.png").stat().st_mtime_ns
    assert velatura("pocket", "render", "--out", tmp_path, "--count", "3", "--size", "32").code == 0
    assert (tmp_path / "000000.png").stat().st_mtime_ns == first
    assert (tmp_path / "000002.png").exists()


def test_check_of_an_empty_folder(velatura: Run, tmp_path: Path) -> None:
    ended = velatura("pocket", "check", tmp_path)
    assert ended.code == 2
    assert "NAME.png beside NAME.txt" in ended.err


def test_unknown_concept(velatura: Run, tmp_path: Path) -> None:
    ended = velatura("pocket", "concept", "--out", tmp_path / "x", "--name", "dragon")
    assert ended.code == 2
    assert "snowman, mushroom" in ended.err


def test_sample_scores_what_it_painted(velatura: Run, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "painted"
    ended = velatura("pocket", "sample", "--out", out, "--count", "2", "--steps", "1", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["pictures"] == 2
    assert sorted(path.name for path in out.iterdir()) == [
        "000000.png", "000000.txt", "000001.png", "000001.txt",
    ]  # fmt: skip
    again = velatura("pocket", "sample", "--out", out, "--count", "1", "--steps", "1")
    assert again.code == 2
    assert f"--out {out} is not empty (4 entries, the first is 000000.png)" in again.err
    assert f"velatura pocket check {out}" in again.err
    assert len(list(out.iterdir())) == 4


@pytest.mark.parametrize("left", ["old.png", "folder", "notes.txt"])
def test_sample_refuses_a_folder_with_anything_in_it(velatura: Run, tmp_path: Path, left: str) -> None:
    (tmp_path / left).mkdir() if left == "folder" else (tmp_path / left).write_text("")
    (tmp_path / ".hidden").write_text("")
    ended = velatura("pocket", "sample", "--out", tmp_path, "--count", "1")
    assert ended.code == 2
    assert f"is not empty (1 entry, the first is {left})" in ended.err
    assert "give a new or empty folder" in ended.err


def test_sample_refuses_a_file(velatura: Run, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    ended = velatura("pocket", "sample", "--out", tmp_path / "x")
    assert ended.code == 2
    assert "x is a file; wanted: a folder for the pictures, new or empty" in ended.err


def test_one_picture_is_one_picture(velatura: Run, tmp_path: Path) -> None:
    ended = velatura("pocket", "concept", "--out", tmp_path / "a", "--count", "1")
    assert f"1 picture of a snowman with captions in {tmp_path / 'a'}\n" in ended.out
    assert velatura("pocket", "check", tmp_path / "a").out.startswith("1 picture\n")


def test_ctrl_c_keeps_what_was_painted(
    velatura: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted: list[Any] = []

    def paint(pipeline: Any, request: Any) -> list[Image.Image]:
        if painted:
            raise KeyboardInterrupt
        painted.append(request)
        return [Image.new("RGB", (request.width, request.height))]

    monkeypatch.setattr("velatura.sampling.pipeline.Pipeline.paint", paint)
    out = tmp_path / "painted"
    ended = velatura("pocket", "sample", "--out", out, "--count", "3", "--device", "cpu")
    assert ended.code == 130
    assert f"1 picture is kept in {out}; to score what is there: velatura pocket check {out}" in ended.err
    assert sorted(path.name for path in out.iterdir()) == ["000000.png", "000000.txt"]
    assert velatura("pocket", "check", out, "--json").code == 0


def test_values_out_of_range_leave_no_folder(velatura: Run, tmp_path: Path) -> None:
    ended = velatura("pocket", "sample", "--out", tmp_path / "x", "--steps", "100000")
    assert (ended.code, "steps must be 1 to 1000" in ended.err) == (2, True)
    assert not (tmp_path / "x").exists()
    for option, value in (("--size", "1000000000"), ("--count", "10000000000000"), ("--workers", "1000000")):
        ended = velatura("pocket", "render", "--out", tmp_path / "x", option, value)
        assert (ended.code, f"Invalid value for '{option}'" in ended.err) == (2, True)
