"""Captions and masks from the command line, by tiny random models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ..data.labelling.models import write_blip, write_segformer

Run = Callable[..., Any]


@pytest.fixture
def photos(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(recipe_file.parent)
    folder = recipe_file.parent / "photos"
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    (folder / "0.txt").write_text("by hand")
    return folder


def test_captions(velatura: Run, photos: Path, recipe_file: Path, tmp_path: Path) -> None:
    model = write_blip(tmp_path / "model")
    (photos / "2.png").write_bytes(b"no picture")
    ended = velatura(
        "data", "caption", recipe_file, "--model", model, "--prompt", "a dog", "--max-tokens", "8"
    )
    assert ended.code == 0, ended.err
    assert "1 caption written, 1 was there already, 1 picture was skipped" in ended.out
    assert "photos/2.png: not an image" in ended.out
    assert (photos / "0.txt").read_text() == "by hand"
    assert (photos / "1.txt").read_text().startswith("a dog")
    ended = velatura("data", "caption", "photos", "--model", model, "--overwrite", "--json")
    assert json.loads(ended.out)["written"] == 2
    assert (photos / "0.txt").read_text() != "by hand"


def test_nothing_to_do_needs_no_model(velatura: Run, photos: Path) -> None:
    for i in range(3):
        (photos / f"{i}.txt").touch()
    ended = velatura("data", "caption", "photos", "--model", "nowhere")
    assert ended.code == 0, ended.err
    assert "0 captions written, 3 were there already" in ended.out


def test_masks(velatura: Run, photos: Path, recipe_file: Path, tmp_path: Path) -> None:
    model = write_segformer(tmp_path / "model")
    labels = ("--label", "background", "--label", "dog", "--label", "tree")
    ended = velatura("data", "mask", "photos", "--model", model, *labels)
    assert ended.code == 0, ended.err
    assert "3 masks written" in ended.out
    assert 'masks = "photos-masks" beside folder = "photos"' in ended.out
    with Image.open(tmp_path / "photos-masks/1.png") as mask:
        assert (mask.size, mask.mode, mask.getextrema()) == ((60, 40), "L", (255, 255))
    text = recipe_file.read_text().replace('folder = "photos"', 'folder = "photos"\nmasks = "photos/*.mask"')
    recipe_file.write_text(text)
    ended = velatura("data", "mask", recipe_file, "--model", model, *labels)
    assert ended.code == 0, ended.err
    assert sorted(path.name for path in photos.glob("*.mask.png")) == [
        "0.mask.png",
        "1.mask.png",
        "2.mask.png",
    ]
    assert "beside folder" not in ended.out
    assert "0 masks written, 3 were there" in velatura("data", "mask", recipe_file, "--model", model).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("caption", "a.toml", "--recursive"), "--recursive goes with a folder"),
        (("caption", "a.toml", "--extension", ".caption"), "--extension goes with a folder"),
        (("mask", "a.toml", "--out", "x"), "--out goes with a folder"),
        (("caption", "photos", "--set", "seed=1"), "--set changes a recipe"),
        (("caption", "photos"), "no such file or folder"),
        (("mask", "gone.toml"), "gone.toml"),
    ],
)
def test_what_does_not_go_together(velatura: Run, photos: Path, words: tuple[str, ...], message: str) -> None:
    ended = velatura("data", *words, "--model", "nowhere")
    assert ended.code == 2
    assert message in ended.err
