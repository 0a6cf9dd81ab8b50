"""Masks, depth, normals, references and control images are cut and turned as their image is."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from velatura.data.companions import load_companion
from velatura.data.decoded import DecodedImages, load_companions, load_pixels, stack_companions
from velatura.data.images import Look
from velatura.data.items import Companion, Item, Role
from velatura.data.places import FilePlace
from velatura.data.scanning.probe import content_hash
from velatura.data.views import View
from velatura.errors import DataError

Make = Callable[..., Item]
SIZE = (48, 32)  # width, height
WHOLE = Look(bucket=SIZE)


@pytest.fixture
def with_companion(make_item: Make, tmp_path: Path) -> Callable[..., Item]:
    """An item with one companion of these bytes, or this array as a PNG."""

    def make(role: Role, content: Any, item: Item | None = None) -> Item:
        item = item or make_item("a.png", SIZE)
        data = content if isinstance(content, bytes) else png(content)
        path = tmp_path / f"{role}.png"
        path.write_bytes(data)
        companion = Companion(
            place=FilePlace(str(path)), content=content_hash(data), width=SIZE[0], height=SIZE[1]
        )
        return replace(item, companions={**item.companions, role: companion})

    return make


def png(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def ramp() -> np.ndarray[Any, Any]:
    """A number for each pixel."""
    return np.arange(SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0])


@pytest.mark.parametrize(
    "stored",
    [
        png((ramp() * 40).astype(np.uint16)),
        npy((ramp() * 40).astype(np.float32)),
        npy((ramp() * 40).astype(np.float64)),
        npy((ramp() * 40).astype(">u2")),
        npy((ramp() * 40)[None].astype(np.float32)),
        npy((ramp() * 40)[..., None].astype(np.int32)),
    ],
    ids=["png16", "float32", "float64", "big-endian", "1HW", "HW1"],
)
def test_depth_is_read_as_it_is_stored(with_companion: Any, stored: bytes) -> None:
    found = load_companion(with_companion("depth", stored), "depth", WHOLE)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.from_numpy(ramp() * 40.0)[None].float())


def test_depth_numbers_are_never_mixed_and_gaps_are_zero(with_companion: Any) -> None:
    values = np.where(ramp() % 2 == 0, 1.0, 9.0).astype(np.float32)
    values[0, 0] = np.nan
    item = with_companion("depth", npy(values))
    small = load_companion(item, "depth", Look(bucket=(20, 17), at=(0.3, 0.8)))
    assert small.shape == (1, 17, 20)
    assert set(small.unique().tolist()) <= {0.0, 1.0, 9.0}
    assert load_companion(item, "depth", WHOLE)[0, 0, 0] == 0


def test_a_coloured_depth_map_is_refused(with_companion: Any) -> None:
    grey = np.repeat((ramp() % 200).astype(np.uint8)[..., None], 3, 2)
    assert load_companion(with_companion("depth", grey), "depth", WHOLE).shape == (1, 32, 48)
    coloured = grey.copy()
    coloured[..., 2] += 1
    with pytest.raises(DataError, match=r"depth image of a.png .* one channel, this has 3"):
        load_companion(with_companion("depth", coloured), "depth", WHOLE)


def test_what_is_transparent_or_black_in_a_mask_does_not_count(with_companion: Any) -> None:
    mask = np.zeros((32, 48, 4), np.uint8)
    mask[:, 16:32] = 255  # white
    mask[:, 32:, :3] = 255  # white, but transparent
    found = load_companion(with_companion("mask", mask), "mask", WHOLE)
    assert found.shape == (1, 32, 48)
    assert found[0, 7, [0, 15, 16, 31, 32, 47]].tolist() == [0, 0, 1, 1, 0, 0]


FACING = {
    "left": (-1.0, 0.0, 0.0),
    "up": (0.0, 1.0, 0.0),
    "viewer": (0.0, 0.0, 1.0),
    "slanted": (0.6, 0.0, 0.8),
}


def plane(normal: tuple[float, float, float]) -> np.ndarray[Any, Any]:
    return np.broadcast_to(np.array(normal, np.float32), (32, 48, 3)).copy()


@pytest.mark.parametrize("facing", FACING)
@pytest.mark.parametrize(
    "stored",
    [
        lambda n: png(np.rint((n + 1) / 2 * 255).astype(np.uint8)),
        npy,
        lambda n: npy((n + 1) / 2),
        lambda n: npy(np.rint((n + 1) / 2 * 65535).astype(np.uint16)),
        lambda n: npy(n.transpose(2, 0, 1)),
    ],
    ids=["png", "array", "array of 0..1", "array of 16 bits", "channels first"],
)
@pytest.mark.parametrize("flip", [False, True])
def test_normals_are_unit_vectors_and_turn_with_their_image(
    with_companion: Any, facing: str, stored: Callable[[Any], bytes], flip: bool
) -> None:
    item = with_companion("normals", stored(plane(FACING[facing])))
    found = load_companion(item, "normals", Look(bucket=SIZE, flip=flip))
    x, y, z = FACING[facing]
    torch.testing.assert_close(found[:, 9, 9], torch.tensor([-x if flip else x, y, z]), atol=0.006, rtol=0)
    torch.testing.assert_close(found.norm(dim=0), torch.ones(32, 48))


def test_where_there_is_no_normal(with_companion: Any) -> None:
    """Black and mid-grey pixels of an image, zeros of an array."""
    for none, store in ((0, png), (128, png), (0, npy)):
        image = np.full((32, 48, 3), none, np.uint8 if store is png else np.float32)
        image[:, 24:] = (128, 128, 255) if store is png else (0, 0, 1)
        found = load_companion(with_companion("normals", store(image)), "normals", WHOLE)
        assert found[:, 5, 5].tolist() == [0, 0, 0]
        torch.testing.assert_close(found[:, 5, 40], torch.tensor([0.0, 0.0, 1.0]), atol=0.006, rtol=0)
    with pytest.raises(DataError, match="normals have three channels"):
        load_companion(with_companion("normals", npy(np.zeros((32, 48)))), "normals", WHOLE)


@pytest.mark.parametrize("role", ["reference", "control"])
def test_pictures_are_cut_as_the_image(with_companion: Any, make_item: Make, role: Role) -> None:
    item = make_item("a.png", SIZE, seed=4)
    twin = with_companion(role, Path(item.place.key).read_bytes(), item)
    for look in (WHOLE, Look(bucket=(16, 24), flip=True, at=(0.1, 0.7))):
        found = load_companion(twin, role, look)
        view = View(item=twin, bucket=look.bucket, flip=look.flip)
        if look.at == (0.5, 0.5):
            torch.testing.assert_close(found, load_pixels(view) / 127.5 - 1)
        assert found.shape == (3, look.bucket[1], look.bucket[0])


def middle(mask: Tensor) -> float:
    """Column of the centre of mass."""
    columns = torch.arange(mask.shape[-1]).float()
    return float((mask.sum((0, 1)) * columns).sum() / mask.sum())


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop", [0, 1, 7])
def test_all_companions_show_the_same_part_as_the_image(
    with_companion: Any, tmp_path: Path, make_item: Make, flip: bool, crop: int
) -> None:
    """A bright disc in the image, in its mask, its depth and its normals stays in one place in all of them."""
    y, x = np.mgrid[0:64, 0:128]
    disc = (x - 62) ** 2 + (y - 30) ** 2 < 12**2
    item = make_item("scene.png", (128, 64), random_crop=True)
    data = png((disc[..., None] * np.full(3, 255)).astype(np.uint8))
    Path(item.place.key).write_bytes(data)
    item = replace(item, content=content_hash(data))
    item = with_companion("mask", (disc * 255).astype(np.uint8), item)
    item = with_companion("depth", npy(np.where(disc, 2.0, 0.0).astype(np.float32)), item)
    normals = np.where(disc[..., None], (0.6, 0.0, 0.8), (0.0, 0.0, 0.0)).astype(np.float32)
    item = with_companion("normals", npy(normals), item)
    view = View(item=item, bucket=(96, 64), flip=flip, crop=crop)
    found = load_companions(view)
    expected = middle(load_pixels(view).float().mean(0, keepdim=True))
    assert middle(found["mask"]) == pytest.approx(expected, abs=0.02)
    for numbers in (found["depth"], found["normals"][2:]):  # the nearest number: up to half a pixel away
        assert middle(numbers) == pytest.approx(expected, abs=0.5)
    assert (found["normals"][0].sum() < 0) == flip


def test_transparency_as_the_mask(make_item: Make, tmp_path: Path) -> None:
    item = make_item("a.png", SIZE, alpha_mask=True)
    assert load_companions(View(item=item, bucket=SIZE))["mask"].unique().tolist() == [1.0]
    pixels = np.full((32, 48, 4), 255, np.uint8)
    pixels[:, :24, 3] = 0
    data = png(pixels)
    Path(item.place.key).write_bytes(data)
    item = replace(item, content=content_hash(data))
    for flip, left in ((False, 0.0), (True, 1.0)):
        mask = load_companions(View(item=item, bucket=SIZE, flip=flip))["mask"]
        assert mask[0, 5, 5] == left
        assert mask[0, 5, -5] == 1 - left
    off = replace(item, treatment=replace(item.treatment, alpha_mask=False))
    assert load_companions(View(item=off, bucket=SIZE)) == {}


def test_companions_are_kept_by_all_that_they_depend_on(with_companion: Any, make_item: Make) -> None:
    kept = DecodedImages(2**20)
    item = with_companion("mask", (ramp() % 256).astype(np.uint8))
    view = View(item=item, bucket=SIZE)
    first = kept.companions_of(view)["mask"]
    assert kept.companions_of(view)["mask"] is first
    assert torch.equal(kept.companions_of(replace(view, flip=True))["mask"], first.flip(-1))
    other = with_companion("mask", (255 - ramp() % 256).astype(np.uint8))
    assert not torch.equal(kept.companions_of(View(item=other, bucket=SIZE))["mask"], first)
    assert kept.companions_of(View(item=make_item("b.png", SIZE), bucket=SIZE)) == {}


def test_a_companion_that_changed_is_named(with_companion: Any) -> None:
    item = with_companion("mask", (ramp() % 256).astype(np.uint8))
    Path(item.companions["mask"].place.key).write_bytes(b"other")
    with pytest.raises(DataError, match="the mask image of a.png changed since it was scanned"):
        load_companion(item, "mask", WHOLE)


def test_items_without_a_mask_count_everywhere() -> None:
    half: dict[Role, Tensor] = {"mask": torch.full((1, 2, 3), 0.5), "depth": torch.zeros(1, 2, 3)}
    alone: dict[Role, Tensor] = {"depth": torch.ones(1, 2, 3)}
    found = stack_companions([half, alone])
    assert found["mask"].shape == (2, 1, 2, 3)
    assert found["mask"].flatten(1).mean(1).tolist() == [0.5, 1.0]
    assert stack_companions([{}, {}]) == {}
