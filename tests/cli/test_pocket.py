from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
