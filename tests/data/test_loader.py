from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from velatura.data.batching.order import BatchPlan, OrderedPlan
from velatura.data.batching.plan import Entry
from velatura.data.images import Look, decode, fit, normalise
from velatura.data.items import Item
from velatura.data.loader import Loader
from velatura.data.scanning.probe import content_hash
from velatura.data.text.captions import Caption
from velatura.data.views import View
from velatura.draws import Draw
from velatura.errors import DataError
from velatura.interfaces import Batch, Conditioning, Posterior

Make = Callable[..., Item]


class Recorded:
    """Latents that say what was asked for; conditioning by the length of the text."""

    def empty(self, views: Sequence[View]) -> Posterior:
        return Posterior(mean=torch.empty(len(views), 1, 1, 1, dtype=torch.float16))

    def read_into(self, room: Posterior, position: int, view: View) -> None:
        room.mean[position] = float(view.flip)


class Lengths:
    def empty(self, texts: Sequence[str]) -> Conditioning:
        return Conditioning(tensors={"length": torch.empty(len(texts), dtype=torch.int64)})

    def read_into(self, room: Conditioning, position: int, text: str) -> None:
        room.tensors["length"][position] = len(text)


def same(a: Batch, b: Batch) -> bool:
    assert a.images is not None
    assert b.images is not None
    return (a.names, a.prompts, a.slots) == (b.names, b.prompts, b.slots) and torch.equal(a.images, b.images)


@pytest.fixture
def entries(make_item: Make) -> list[Entry]:
    return [
        Entry(item=make_item(f"i{i}.png", (40 + i, 64), seed=i, flip=0.5, weight=float(i)), bucket=(32, 48))
        for i in range(7)
    ]


def test_images_are_what_prepare_makes(entries: list[Entry]) -> None:
    still = [Entry(item=entry.item, bucket=entry.bucket) for entry in entries]
    with Loader(OrderedPlan(still, batch_size=3), seed=1) as loader:
        batches = [batch for step in range(3) for batch in loader.batches(step)]
    assert [len(batch.names) for batch in batches] == [3, 3, 1]
    for batch in batches:
        assert batch.images is not None
        for name, image in zip(batch.names, batch.images, strict=True):
            item = next(entry.item for entry in entries if entry.item.name == name)
            shown = decode(item.place.read())
            either = [normalise(fit(shown, Look(bucket=(32, 48), flip=flip))) for flip in (False, True)]
            assert any(torch.allclose(image, expected, atol=1e-6) for expected in either)
            assert batch.weights[batch.names.index(name)] == item.treatment.weight
    assert batches[0].conditioning is None
    assert batches[0].latents is None


def test_resuming_and_threads_do_not_matter(entries: list[Entry]) -> None:
    def run(first: int, prefetch: int, workers: int, limit: int) -> list[Batch]:
        plan = BatchPlan(entries, batch_size=2, accumulate=2, seed=5)
        options = {"prefetch": prefetch, "workers": workers, "memory_limit": limit}
        with Loader(plan, seed=5, caption_dropout=0.3, **options) as loader:
            return [batch for step in range(first, 12) for batch in loader.batches(step)]

    whole = run(0, 2, 2, 2**30)
    for other in (run(5, 0, 1, 0), run(5, 3, 4, 3 * 32 * 48 * 2)):
        assert all(same(a, b) for a, b in zip(whole[10:], other, strict=True))
    assert any(prompt.text == "" for batch in whole for prompt in batch.prompts)


def test_flips_happen_as_often_as_asked(entries: list[Entry]) -> None:
    plan = BatchPlan(entries * 10, batch_size=7, seed=2)
    with Loader(plan, seed=2, latents=Recorded(), text=Lengths()) as loader:
        batches = [batch for step in range(100) for batch in loader.batches(step)]
    flipped = torch.cat([batch.latents.flatten() for batch in batches if batch.latents is not None])
    assert 0.4 < flipped.mean() < 0.6
    first = batches[0]
    assert first.latents is not None
    assert first.latents.dtype == torch.float32
    assert first.conditioning is not None
    assert first.conditioning.tensors["length"].tolist() == [len(prompt.text) for prompt in first.prompts]


def test_any_step_may_be_asked_for(entries: list[Entry]) -> None:
    with Loader(BatchPlan(entries, batch_size=2, seed=1), seed=1) as loader:
        twice = {step: loader.batches(step)[0] for step in (3, 90, 4, 3)}
        assert same(loader.batches(3)[0], twice[3])


def test_a_file_that_changed_or_went_is_named(entries: list[Entry], tmp_path: Path, make_item: Make) -> None:
    make_item("i2.png", seed=99)
    (tmp_path / "i3.png").unlink()
    with Loader(OrderedPlan(entries, batch_size=1)) as loader:
        loader.batches(0)
        with pytest.raises(DataError, match=r"i2.png changed since it was scanned"):
            loader.batches(2)
        with pytest.raises(DataError, match=r"i3.png can no longer be read"):
            loader.batches(3)


def test_memory_is_used_up_to_the_limit(entries: list[Entry], monkeypatch: Any) -> None:
    decoded: list[str] = []
    from velatura.data import decoded as module

    original = module.load_pixels

    def counting(view: View) -> torch.Tensor:
        decoded.append(view.item.name)
        return original(view)

    monkeypatch.setattr(module, "load_pixels", counting)
    size = 3 * 32 * 48
    with Loader(BatchPlan(entries, batch_size=7), prefetch=0, memory_limit=4 * size) as loader:
        for step in range(3):
            loader.batches(step)
    assert len(decoded) == 7 + 3 + 3  # four of seven are kept


class Spread:
    """Mean 5, deviation 2."""

    def empty(self, views: Sequence[View]) -> Posterior:
        return Posterior(mean=torch.empty(len(views), 4, 8, 8), deviation=torch.empty(len(views), 4, 8, 8))

    def read_into(self, room: Posterior, position: int, view: View) -> None:
        assert room.deviation is not None
        room.mean[position], room.deviation[position] = 5.0, 2.0


def test_where_deviations_are_cached_each_use_is_a_fresh_sample(entries: list[Entry]) -> None:
    def run(first: int) -> list[torch.Tensor]:
        with Loader(BatchPlan(entries, batch_size=7, seed=2), seed=2, latents=Spread()) as loader:
            batches = [batch for step in range(first, 6) for batch in loader.batches(step)]
        return [batch.latents for batch in batches if batch.latents is not None]

    found = run(0)
    values = torch.cat(found)
    assert values.mean().item() == pytest.approx(5, abs=0.1)
    assert values.std().item() == pytest.approx(2, abs=0.1)
    assert len({float(one[0, 0, 0]) for one in values}) == len(values)
    expected = 5 + 2 * Draw.of(2, step=3, slots=7).normal("posterior", (4, 8, 8))
    torch.testing.assert_close(found[3], expected)  # what `Family.encode_image` draws for these slots
    assert all(torch.equal(a, b) for a, b in zip(run(4), found[4:], strict=True))


def test_other_colours_come_as_often_as_asked(make_item: Make) -> None:
    item = make_item("grey.png")
    Image.new("RGB", (32, 48), (180, 90, 40)).save(item.place.key)
    data = Path(item.place.key).read_bytes()
    treatment = replace(item.treatment, colour=0.4)
    item = replace(item, content=content_hash(data), width=32, height=48, treatment=treatment)
    plan = OrderedPlan([Entry(item=item, bucket=(32, 48))] * 300, batch_size=10)
    with Loader(plan, seed=3) as loader:
        images = torch.cat(
            [batch.images for i in range(30) for batch in loader.batches(i) if batch.images is not None]
        )
    colours = (images[:, :, 0, 0] + 1) * 127.5
    plain = torch.tensor([180.0, 90.0, 40.0])
    changed = (colours - plain).abs().amax(1) > 0.01
    assert 90 < int(changed.sum()) < 150  # 120 expected, deviation 8.5
    assert (colours - plain).abs().max() < 40, "small changes only"
    assert (images.flatten(2).std(2) < 1e-6).all(), "one change for a whole image"


def test_masks_come_with_the_batch(make_item: Make) -> None:
    """The left half is transparent; the mask is flipped with its image."""
    item = make_item("a.png", flip=0.5, alpha_mask=True)
    pixels = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    pixels.paste((0, 0, 0, 0), (0, 0, 32, 64))
    pixels.save(item.place.key)
    item = replace(item, content=content_hash(Path(item.place.key).read_bytes()))
    plan = BatchPlan([Entry(item=item, bucket=(64, 64))] * 8, batch_size=8)
    with Loader(plan, seed=1) as loader:
        (batch,) = loader.batches(0)
    assert batch.images is not None
    mask = batch.companions["mask"]
    assert mask.shape == (8, 1, 64, 64)
    green = batch.images[:, 1]  # white where it was transparent, pure red elsewhere
    torch.testing.assert_close(mask[:, 0], (green < 0).float())
    assert 0 < int(mask[:, 0, 0, 0].sum()) < 8


class Meeting(Lengths):
    """Embeddings of which none is given before two are asked for."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)

    def read_into(self, room: Conditioning, position: int, text: str) -> None:
        self.barrier.wait(timeout=10)
        super().read_into(room, position, text)


def test_embeddings_of_a_batch_are_read_side_by_side(make_item: Make) -> None:
    captions = [Caption(text="a"), Caption(text="bb")]
    found = [Entry(item=make_item(f"{c.text}.png", caption=c), bucket=(64, 64)) for c in captions]
    with Loader(OrderedPlan(found, batch_size=2), text=Meeting(), workers=2, prefetch=0) as loader:
        (batch,) = loader.batches(0)
    assert batch.conditioning is not None
    assert batch.conditioning.tensors["length"].tolist() == [1, 2]
