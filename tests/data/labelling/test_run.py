"""The loop: batches, bad pictures, a stop in the middle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from velatura.data.labelling.run import CAPTIONS, MASKS, label
from velatura.data.labelling.targets import Target
from velatura.data.places import FilePlace
from velatura.errors import VelaturaError

Write = Callable[..., Path]


@pytest.fixture
def targets(tmp_path: Path, write_image: Write) -> list[Target]:
    return [
        Target(
            name=f"{i}.png",
            image=FilePlace(str(write_image(f"{i}.png", (20 + i, 30), seed=i))),
            file=tmp_path / f"{i}.txt",
            max_pixels=10**6,
        )
        for i in range(5)
    ]


def widths(images: Sequence[Image.Image]) -> list[str]:
    return [f"is {image.width} wide" for image in images]


def written(targets: list[Target]) -> dict[str, str]:
    return {target.name: target.file.read_text() for target in targets if target.file.exists()}


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_each_picture_has_its_own(targets: list[Target], log: Any, batch_size: int) -> None:
    sizes: list[int] = []

    def model(images: Sequence[Image.Image]) -> list[str]:
        sizes.append(len(images))
        return widths(images)

    done = label(targets, model, CAPTIONS, log.events, batch_size=batch_size)
    assert (done.written, done.skipped) == (5, [])
    assert written(targets) == {f"{i}.png": f"is {20 + i} wide\n" for i in range(5)}
    assert max(sizes) <= batch_size
    assert sum(sizes) == 5
    assert log.kinds()[0] == "PhaseStarted"
    assert log.kinds()[-1] == "PhaseFinished"


def test_bad_pictures_are_listed_and_skipped(tmp_path: Path, targets: list[Target], log: Any) -> None:
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "2.png").unlink()
    (tmp_path / "3.png").write_bytes(b"no picture")
    targets[4] = Target(name="4.png", image=targets[4].image, file=targets[4].file, max_pixels=100)
    done = label(targets, widths, CAPTIONS, log.events, batch_size=3)
    assert list(written(targets)) == ["0.png"]
    reasons = dict(done.skipped)
    assert reasons.keys() == {"1.png", "2.png", "3.png", "4.png"}
    for name, part in {"1": "damaged", "2": "deleted", "3": "not an image", "4": "max_pixels"}.items():
        assert part in reasons[f"{name}.png"]


def test_a_stop_loses_nothing_that_was_written(tmp_path: Path, targets: list[Target], log: Any) -> None:
    calls: list[int] = []

    def model(images: Sequence[Image.Image]) -> list[str]:
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return widths(images)

    with pytest.raises(KeyboardInterrupt):
        label(targets, model, CAPTIONS, log.events, batch_size=2)
    assert written(targets) == {"0.png": "is 20 wide\n", "1.png": "is 21 wide\n"}
    assert not list(tmp_path.glob("*.partial"))


def test_what_is_of_no_use_is_not_written(targets: list[Target], log: Any) -> None:
    done = label(targets[:1], lambda images: [""], CAPTIONS, log.events, batch_size=1)
    assert done.skipped == [("0.png", "the model said nothing")]
    black = Image.new("L", (20, 30))
    done = label(targets[:1], lambda images: [black], MASKS, log.events, batch_size=1)
    assert done.skipped == [("0.png", "nothing of what is wanted was found in it")]
    assert written(targets) == {}


def test_too_little_memory(targets: list[Target], log: Any) -> None:
    def model(images: Sequence[Image.Image]) -> list[str]:
        raise torch.OutOfMemoryError

    with pytest.raises(VelaturaError, match="for 3 at a time; lower --batch-size"):
        label(targets, model, CAPTIONS, log.events, batch_size=3)
