from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]


@pytest.fixture
def photos(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe's folder with four pictures; caches and results stay in the test's own folder."""
    monkeypatch.setenv("VELATURA_CACHE", str(recipe_file.parent / "cache"))
    monkeypatch.chdir(recipe_file.parent)
    folder = recipe_file.parent / "photos"
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"picture {i}")
    with recipe_file.open("a") as file:
        file.write("rank = 4\n[training]\nsteps = 8\nbatch_size = 2\n")
    text = recipe_file.read_text().replace('folder = "photos"', 'folder = "photos"\nresolution = 96')
    recipe_file.write_text(text)
    return folder


def test_sound_data(velatura: Run, recipe_file: Path, photos: Path) -> None:
    ended = velatura("data", "check", recipe_file)
    assert ended.code == 0, ended.err
    assert "4 images, 4 uses and 2 steps per epoch, 4.00 epochs; 0 files were left out" in ended.out
    document = json.loads((recipe_file.parent / "a-check/check.json").read_text())
    assert [item["name"] for item in document["items"]] == [f"photos/{i}.png" for i in range(4)]
    assert document["summary"]["tokens_counted_by"] == ["CLIP", "T5"]
    page = (recipe_file.parent / "a-check/check.html").read_text()
    assert "Training would start" in page
    assert page.count("data:image/jpeg") == 4


def test_remarks_are_told(velatura: Run, recipe_file: Path, photos: Path) -> None:
    (photos / "alone.txt").write_text("no picture")
    ended = velatura("data", "check", recipe_file)
    assert "1 caption file in 'photos' has no image: alone.txt." in ended.out


def test_what_training_would_refuse(velatura: Run, recipe_file: Path, photos: Path) -> None:
    """All that can be said is said, although half of the images are bad."""
    for i in range(2):
        (photos / f"{i}.png").write_bytes(b"no picture")
    ended = velatura("data", "check", recipe_file, "--json", "--out", recipe_file.parent / "out")
    assert ended.code == 2
    document = json.loads(ended.out)
    (refusal,) = document["refused"]
    assert "2 of 4 images in 'photos' cannot be used" in refusal
    assert [one["name"] for one in document["quarantined"]] == ["photos/0.png", "photos/1.png"]
    assert len(document["items"]) == 2
    assert "would refuse" in (recipe_file.parent / "out/check.html").read_text()


def test_no_data_at_all(velatura: Run, recipe_file: Path, photos: Path) -> None:
    for path in photos.iterdir():
        path.unlink()
    ended = velatura("data", "check", recipe_file)
    assert ended.code == 2
    assert "is empty" in ended.out
    assert "0 images" not in ended.out  # nothing was counted


def test_a_model_that_is_not_there_is_no_obstacle(velatura: Run, recipe_file: Path, photos: Path) -> None:
    text = recipe_file.read_text().replace('model = "pocket/flux"', 'family = "flux"\nmodel = "nowhere"')
    recipe_file.write_text(text)
    ended = velatura("data", "check", recipe_file, "--json")
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert document["items"][0]["buckets"] == [[96, 96]]
    assert document["items"][0]["tokens"] == []
    assert any("tokens were not counted" in line for line in document["warnings"])
