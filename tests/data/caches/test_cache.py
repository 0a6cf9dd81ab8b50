"""A changed image, caption, resolution or model never meets an old entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from velatura.data.batching.plan import Entry
from velatura.data.caches.cache import CachedLatents, CachedText
from velatura.data.caches.cache_place import check_room
from velatura.data.caches.shard_writer import ShardWriter
from velatura.data.items import Item
from velatura.data.places import FilePlace
from velatura.data.text.captions import Caption
from velatura.data.views import View, views_of
from velatura.errors import ModelError, NumericError, StorageError
from velatura.interfaces import Conditioning, ModelInfo, Posterior

Make = Callable[..., Item]
BUCKET = (32, 16)


def latents_of(folder: Path, info: ModelInfo, log: Any, **options: Any) -> CachedLatents:
    return CachedLatents(folder, info, log.events, **{"computed": torch.float32, **options})


def mean(latents: torch.Tensor) -> Posterior:
    return Posterior(mean=latents)


def store_one(cache: CachedLatents, item: Item, value: float = 1.0) -> None:
    with ShardWriter(cache.store) as writer:
        cache.put(writer, View(item=item, bucket=BUCKET, flip=False), mean(torch.full((3, 2, 4), value)))


def test_views(make_item: Make) -> None:
    plain, sometimes, always = (
        make_item(f"{i}.png", seed=i, flip=flip) for i, flip in enumerate((0.0, 0.5, 1.0))
    )
    twin = replace(plain, name="twin")
    entries = [
        Entry(item=item, bucket=bucket)
        for item in (plain, twin, sometimes, always)
        for bucket in (BUCKET, (16, 16))
    ]
    found = [(view.bucket, view.item.name, view.flip) for view in views_of(entries)]
    assert [each for each in found if each[0] == BUCKET] == [
        (BUCKET, "0.png", False),
        (BUCKET, "1.png", False),
        (BUCKET, "1.png", True),
        (BUCKET, "2.png", True),
    ]
    assert len(found) == 8
    assert [bucket for bucket, _, _ in found] == sorted(bucket for bucket, _, _ in found)


def test_everything_that_matters_is_in_the_key(
    tmp_path: Path, make_item: Make, info: ModelInfo, log: Any
) -> None:
    item = make_item("a.png", seed=1)
    store_one(latents_of(tmp_path, info, log), item)

    def hit(cache: CachedLatents, item: Item, bucket: tuple[int, int] = BUCKET, flip: bool = False) -> bool:
        return not cache.missing([View(item=item, bucket=bucket, flip=flip)])

    again = latents_of(tmp_path, info, log)
    assert hit(again, item)
    assert hit(
        again,
        replace(
            item,
            name="moved",
            place=FilePlace("elsewhere"),
            caption=Caption(text="other"),
            treatment=replace(item.treatment, weight=2.0, repeats=9),
        ),
    )
    assert not hit(again, make_item("a.png", seed=2)), "other bytes under the same name"
    assert not hit(again, replace(item, treatment=replace(item.treatment, background="black")))
    assert not hit(again, item, flip=True)
    assert not hit(again, item, bucket=(16, 32))
    other_model = replace(info, fingerprints={**info.fingerprints, "autoencoder": "ae-2"})
    assert not hit(latents_of(tmp_path, other_model, log), item)
    assert not hit(latents_of(tmp_path, info, log, computed=torch.bfloat16), item)
    assert not hit(latents_of(tmp_path, info, log, stored=torch.float16), item)
    assert not hit(latents_of(tmp_path, info, log, holds="sample"), item)
    assert not hit(again, replace(item, treatment=replace(item.treatment, resize="area")))
    assert again.missing([View(item=item, bucket=BUCKET, crop=1)])


def test_a_changed_way_of_scaling_makes_everything_anew(
    tmp_path: Path, make_item: Make, info: ModelInfo, log: Any, monkeypatch: Any
) -> None:
    item = make_item("a.png")
    store_one(latents_of(tmp_path, info, log), item)
    monkeypatch.setattr("velatura.data.caches.cache.TRANSFORM", "another")
    assert latents_of(tmp_path, info, log).missing([View(item=item, bucket=BUCKET, flip=False)])


def test_values_come_back_bit_for_bit_with_and_without_memory(
    tmp_path: Path, make_item: Make, info: ModelInfo, log: Any
) -> None:
    item = make_item("a.png")
    value = torch.randn(3, 2, 4)
    with ShardWriter(latents_of(tmp_path, info, log).store) as writer:
        latents_of(tmp_path, info, log).put(writer, View(item=item, bucket=BUCKET, flip=True), mean(value))
    for limit in (0, 2**30):
        cache = latents_of(tmp_path, info, log, memory_limit=limit)
        for _ in range(2):
            assert torch.equal(cache.of(View(item=item, bucket=BUCKET, flip=True)).mean, value)


def test_means_and_deviations_come_back(tmp_path: Path, make_item: Make, info: ModelInfo, log: Any) -> None:
    view = View(item=make_item("a.png"), bucket=BUCKET)
    found = Posterior(mean=torch.randn(3, 2, 4), deviation=torch.rand(3, 2, 4))
    cache = latents_of(tmp_path, info, log, holds="sample")
    assert cache.size([view]) == 2 * latents_of(tmp_path, info, log).size([view]) == 2 * 3 * 2 * 4 * 4
    with ShardWriter(cache.store) as writer:
        cache.put(writer, view, found)
    for limit in (0, 2**30):
        again = latents_of(tmp_path, info, log, holds="sample", memory_limit=limit).of(view)
        assert again.deviation is not None
        assert found.deviation is not None
        assert torch.equal(again.mean, found.mean)
        assert torch.equal(again.deviation, found.deviation)
    with pytest.raises(NumericError, match=r"a.png are not finite"), ShardWriter(cache.store) as writer:
        cache.put(writer, view, replace(found, deviation=torch.full((3, 2, 4), float("inf"))))


def test_absent_damaged_and_impossible_latents(
    tmp_path: Path, make_item: Make, info: ModelInfo, log: Any
) -> None:
    item = make_item("a.png")
    cache = latents_of(tmp_path, info, log)
    with pytest.raises(StorageError, match=r"latents of a.png at 32x16 are missing"):
        cache.of(View(item=item, bucket=BUCKET, flip=False))
    with pytest.raises(NumericError, match=r"a.png are not finite"):
        store_one(cache, item, float("nan"))
    with pytest.raises(ValueError, match="not"), ShardWriter(cache.store) as writer:
        cache.put(writer, View(item=item, bucket=BUCKET, flip=False), mean(torch.zeros(3, 4, 2)))
    store_one(cache, item)
    (shard,) = cache.store.folder.glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    fresh = latents_of(tmp_path, info, log)
    assert len(fresh.missing([View(item=item, bucket=BUCKET, flip=False)])) == 1
    assert "was damaged (a checksum is wrong)" in log.texts[-1]
    with pytest.raises(StorageError, match="--resume"):
        latents_of(tmp_path, info, log).of(View(item=item, bucket=BUCKET, flip=False))


def test_fp16_overflow_is_told(tmp_path: Path, make_item: Make, info: ModelInfo, log: Any) -> None:
    with pytest.raises(NumericError, match="bf16"):
        store_one(latents_of(tmp_path, info, log, stored=torch.float16), make_item("a.png"), 1e6)


def test_text_depends_on_text_and_encoders(tmp_path: Path, info: ModelInfo, log: Any) -> None:
    conditioning = Conditioning(
        tensors={"pooled": torch.randn(1, 8).bfloat16(), "ids": torch.tensor([[1, 2, 3]])}
    )

    def text(info: ModelInfo = info, tag: str = "", computed: torch.dtype = torch.bfloat16) -> CachedText:
        return CachedText(tmp_path, info, log.events, computed=computed, tag=tag)

    cache = text()
    with ShardWriter(cache.store) as writer:
        assert cache.put(writer, "a dog", conditioning) == 8 * 2 + 3 * 8
    assert text().missing(["a dog", "a cat", "", "a cat"]) == ["a cat", ""]
    found = text().of("a dog").tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in conditioning.tensors.items())
    for part in ("text_encoders", "tokenizers"):
        changed = replace(info, fingerprints={**info.fingerprints, part: "other"})
        assert text(changed).missing(["a dog"])
    assert text(tag="text_length=256").missing(["a dog"])
    assert text(computed=torch.float32).missing(["a dog"])
    assert text(replace(info, variant="other")).missing(["a dog"])
    with pytest.raises(StorageError, match="'a cat' is missing"):
        cache.of("a cat")
    with pytest.raises(NumericError, match="pooled"), ShardWriter(cache.store) as writer:
        cache.put(writer, "x", Conditioning(tensors={"pooled": torch.tensor([[float("inf")]])}))


@pytest.mark.parametrize("limit", [0, 2**30])
def test_texts_are_read_to_their_places_in_a_batch(
    tmp_path: Path, info: ModelInfo, log: Any, limit: int
) -> None:
    texts = ["a dog", "a cat", ""]
    found = {
        text: {"text": torch.randn(1, 5, 8).bfloat16(), "ids": torch.randint(9, (1, 3))} for text in texts
    }

    def cache() -> CachedText:
        return CachedText(tmp_path, info, log.events, computed=torch.bfloat16, memory_limit=limit)

    filled = cache()
    with ShardWriter(filled.store) as writer:
        for text, tensors in found.items():
            filled.put(writer, text, Conditioning(tensors=tensors))
    for source in (filled, cache()):
        for _ in range(2):
            wanted = ["", "a dog", "", "a cat"]
            room = source.empty(wanted)
            for position, text in enumerate(wanted):
                source.read_into(room, position, text)
            for name, tensor in room.tensors.items():
                assert torch.equal(tensor, torch.cat([found[text][name] for text in wanted]))
            for tensor in room.tensors.values():
                tensor.zero_()  # what a step does to its batch does not reach the cache


def test_a_damaged_text_is_not_read_into_a_batch(tmp_path: Path, info: ModelInfo, log: Any) -> None:
    cache = CachedText(tmp_path, info, log.events, computed=torch.float32, memory_limit=0)
    with pytest.raises(StorageError, match="'a dog' is missing"):
        cache.empty(["a dog"])
    with ShardWriter(cache.store) as writer:
        cache.put(writer, "a dog", Conditioning(tensors={"text": torch.randn(1, 8)}))
        cache.put(writer, "two", Conditioning(tensors={"text": torch.randn(1, 9)}))
    room = cache.empty(["a dog", "two"])
    with pytest.raises(ValueError, match="'two' is"):
        cache.read_into(room, 1, "two")
    (shard,) = cache.store.folder.glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    data[-3 - 9 * 4] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StorageError, match="'a dog' is missing or damaged"):
        cache.read_into(room, 0, "a dog")
    assert "was damaged (a checksum is wrong)" in log.texts[-1]


def test_texts_are_kept_in_the_dtype_that_they_are_asked_in(
    tmp_path: Path, info: ModelInfo, log: Any
) -> None:
    """Though a CPU without products in bf16 computes them in float32."""
    cache = CachedText(tmp_path, info, log.events, computed=torch.bfloat16)
    tensors = {"text": torch.randn(1, 8), "ids": torch.ones(1, 2, dtype=torch.long)}
    with ShardWriter(cache.store) as writer:
        size = cache.put(writer, "a dog", Conditioning(tensors=tensors))
    found = cache.of("a dog").tensors
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "text": torch.bfloat16,
        "ids": torch.long,
    }
    assert size == 8 * 2 + 2 * 8


def test_a_model_without_identity_is_not_cached(tmp_path: Path, info: ModelInfo, log: Any) -> None:
    nameless = replace(info, fingerprints={})
    with pytest.raises(ModelError, match="autoencoder of this fake model has no fingerprint"):
        latents_of(tmp_path, nameless, log)


def test_room_is_checked(tmp_path: Path) -> None:
    check_room(tmp_path / "not" / "yet", 1, "x")
    with pytest.raises(StorageError, match=r"the latents need 1048576.0 GiB in .* where .* are free"):
        check_room(tmp_path / "not" / "yet", 2**50, "the latents")
