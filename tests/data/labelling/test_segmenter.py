"""Models that segment: masks of the picture's size, white where a label is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from velatura.data.labelling.segmenter import Segmenter
from velatura.errors import ModelError, RecipeError

from .models import write_blip, write_segformer

CPU = torch.device("cpu")


def pictures() -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [
        Image.fromarray(draw.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in ((44, 30), (20, 60))
    ]


def white(folder: Path, *labels: str) -> list[np.ndarray]:  # type: ignore[type-arg]
    masks = Segmenter(str(folder), device=CPU, labels=labels)(pictures())
    assert [(mask.size, mask.mode) for mask in masks] == [((44, 30), "L"), ((20, 60), "L")]
    values = [np.asarray(mask) for mask in masks]
    assert set(np.unique(np.concatenate([value.ravel() for value in values]))) <= {0, 255}
    return [value == 255 for value in values]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_pixel_has_one_label(
    tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("velatura.data.labelling.segmenter.choose_dtype", lambda *_: dtype)
    folder = write_segformer(tmp_path / "m")
    each = [white(folder, label) for label in ("background", "DOG", "plant")]
    for image in range(2):
        assert (sum(one[image].astype(int) for one in each) == 1).all()
    assert sum(one[0].any() for one in each) > 1  # else the rest would say nothing
    for masks in (white(folder, "dog", "tree"), white(folder)):  # by default all but the background
        assert all((mask == ~background).all() for mask, background in zip(masks, each[0], strict=True))


def test_labels_that_the_model_has_not(tmp_path: Path) -> None:
    folder = write_segformer(tmp_path / "m")
    with pytest.raises(
        RecipeError, match="'dogg': the model does not know it. Did you mean 'dog'.*background, dog"
    ):
        white(folder, "dogg")
    with pytest.raises(RecipeError, match="no label 'background': say with --label"):
        white(write_segformer(tmp_path / "n", ("sky", "dog")))


def test_a_model_that_does_not_segment(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded as a segmentation model"):
        white(write_blip(tmp_path / "m"))
