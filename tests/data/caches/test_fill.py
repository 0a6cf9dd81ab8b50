from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from velatura.data.batching.order import BatchPlan
from velatura.data.batching.plan import Entry
from velatura.data.caches.cache import CachedLatents, CachedText
from velatura.data.caches.fill import fill_latents, fill_text
from velatura.data.images import decode, fit, normalise
from velatura.data.items import Companion, Item
from velatura.data.loader import Loader
from velatura.data.scanning.probe import content_hash
from velatura.data.text.texts import texts_of
from velatura.data.views import View, views_of
from velatura.errors import DataError, ModelError, NumericError, StorageError
from velatura.events import PhaseFinished, PhaseStarted
from velatura.interfaces import ModelInfo, Parts

Make = Callable[..., Item]


@pytest.fixture
def entries(make_item: Make) -> list[Entry]:
    return [
        Entry(
            item=make_item(f"i{i}.png", (64, 48 + i), seed=i, flip=0.5 * (i % 2)),
            bucket=((64, 32), (32, 32))[i % 2],
        )
        for i in range(6)
    ]


@pytest.fixture
def open_latents(tmp_path: Path, info: ModelInfo, log: Any) -> Callable[[], CachedLatents]:
    return lambda: CachedLatents(tmp_path / "cache", info, log.events, computed=torch.float32)


def test_latents_are_those_of_the_prepared_image(
    entries: list[Entry], family: Any, parts: Parts, open_latents: Any, log: Any
) -> None:
    done = fill_latents(entries, family, parts, open_latents(), log.events, batch_size=2)
    assert (done.encoded, done.reused) == (9, 0)  # six views, and the other side of three
    assert sorted(family.encoded) == [1, 2, 2, 2, 2]
    cache = open_latents()
    for entry in entries:
        for flip in (False, True) if entry.item.treatment.flip else (False,):
            view = View(item=entry.item, bucket=entry.bucket, flip=flip)
            image = normalise(fit(decode(entry.item.place.read()), view.look))
            expected = torch.nn.functional.avg_pool2d(image, 8)
            torch.testing.assert_close(cache.of(view).mean, expected)
            assert cache.of(view).deviation is None
    started = [event for event in log.seen if isinstance(event, PhaseStarted)]
    assert [(event.phase, event.total) for event in started] == [("cache latents", 9)]
    assert "encoded 9 images at" in log.texts[-1]


def test_means_and_deviations(
    tmp_path: Path, entries: list[Entry], family: Any, parts: Parts, info: ModelInfo, log: Any
) -> None:
    def cache() -> CachedLatents:
        return CachedLatents(tmp_path / "cache", info, log.events, computed=torch.float32, holds="sample")

    assert fill_latents(entries, family, parts, cache(), log.events).encoded == 9
    found = cache().of(View(item=entries[0].item, bucket=entries[0].bucket))
    assert found.deviation is not None
    torch.testing.assert_close(found.deviation, 0.1 + found.mean.abs())


def test_random_crops_are_encoded_ahead(
    make_item: Make, family: Any, parts: Parts, open_latents: Any, log: Any
) -> None:
    item = make_item("wide.png", (128, 32), random_crop=True, crops=3, flip=0.5)
    entry = Entry(item=item, bucket=(64, 32))
    assert fill_latents([entry], family, parts, open_latents(), log.events).encoded == 6
    plan = BatchPlan([entry] * 4, batch_size=4, seed=1)
    with Loader(plan, seed=1, latents=open_latents()) as loader:
        found = [batch.latents for step in range(20) for batch in loader.batches(step)]
    shown = {tuple(one.flatten().tolist()) for latents in found if latents is not None for one in latents}
    assert len(shown) == 6


def test_cached_latents_show_the_same_part_as_companions(
    make_item: Make, family: Any, parts: Parts, open_latents: Any, log: Any, tmp_path: Path
) -> None:
    """The mask of this image is the image itself; latents are means of 8 x 8 pixels, and so is the mask then."""
    item = make_item("scene.png", (128, 40), seed=5, random_crop=True, crops=3, flip=0.5)
    grey = Image.open(item.place.key).convert("L")
    grey.save(item.place.key)
    content = content_hash(Path(item.place.key).read_bytes())
    mask = Companion(place=item.place, content=content, width=128, height=40)
    entry = Entry(item=replace(item, content=content, companions={"mask": mask}), bucket=(64, 32))
    fill_latents([entry], family, parts, open_latents(), log.events)
    with Loader(BatchPlan([entry] * 4, batch_size=4, seed=1), seed=1, latents=open_latents()) as loader:
        for step in range(10):
            (batch,) = loader.batches(step)
            assert batch.latents is not None
            pooled = torch.nn.functional.avg_pool2d(batch.companions["mask"], 8)
            torch.testing.assert_close(pooled * 2 - 1, batch.latents[:, :1], atol=1e-5, rtol=0)


def test_nothing_is_done_twice(
    entries: list[Entry], family: Any, parts: Parts, open_latents: Any, log: Any
) -> None:
    fill_latents(entries[:4], family, parts, open_latents(), log.events)
    before = sum(family.encoded)
    done = fill_latents(entries, family, parts, open_latents(), log.events)
    assert (done.encoded, done.reused) == (3, 6)
    assert sum(family.encoded) == before + 3
    empty = Parts(info=parts.info)
    assert fill_latents(entries, family, empty, open_latents(), log.events).encoded == 0


def test_interrupted_it_keeps_what_is_done(
    entries: list[Entry], parts: Parts, family: Any, open_latents: Any, log: Any
) -> None:
    family.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        fill_latents(entries, family, parts, open_latents(), log.events, batch_size=2)
    assert not any(isinstance(event, PhaseFinished) for event in log.seen)
    family.stop_after = None
    assert fill_latents(entries, family, parts, open_latents(), log.events).reused == 4


def test_damaged_entries_are_made_again(
    entries: list[Entry], family: Any, parts: Parts, open_latents: Any, log: Any
) -> None:
    cache = open_latents()
    fill_latents(entries, family, parts, cache, log.events)
    (shard,) = cache.store.folder.glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 0x40
    shard.write_bytes(data)
    assert fill_latents(entries, family, parts, open_latents(), log.events).encoded > 0
    assert any("was damaged" in text for text in log.texts)
    assert fill_latents(entries, family, parts, open_latents(), log.events).encoded == 0


def test_images_that_fail_are_listed_after_all_others_were_kept(
    entries: list[Entry], family: Any, parts: Parts, open_latents: Any, log: Any
) -> None:
    Path(entries[0].item.place.key).write_bytes(b"changed")
    Path(entries[2].item.place.key).unlink()
    with pytest.raises(
        DataError, match=r"2 of 9 images could not be encoded:\n(.|\n)*i0.png changed(.|\n)*i2.png can no"
    ):
        fill_latents(entries, family, parts, open_latents(), log.events)
    assert fill_latents(entries[3:] + entries[1:2], family, parts, open_latents(), log.events).encoded == 0


def test_full_disk_is_told_before_anything_is_encoded(
    entries: list[Entry], family: Any, parts: Parts, open_latents: Any, log: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(StorageError, match=r"the latents of 9 images need 0\.0 MiB"):
        fill_latents(entries, family, parts, open_latents(), log.events)
    assert family.encoded == []


def test_parts_that_are_not_loaded(
    entries: list[Entry], family: Any, info: ModelInfo, open_latents: Any, log: Any
) -> None:
    with pytest.raises(ModelError, match="autoencoder"):
        fill_latents(entries, family, Parts(info=info), open_latents(), log.events)


def test_nan_names_the_image(
    entries: list[Entry], family: Any, parts: Parts, open_latents: Any, log: Any
) -> None:
    family.encode_image = lambda parts, images: torch.full((len(images), 3, 4, 8), float("nan"))
    with pytest.raises(NumericError, match=r"i\d.png are not finite"):
        fill_latents(
            [entry for entry in entries if entry.bucket == (64, 32)],
            family,
            parts,
            open_latents(),
            log.events,
        )


def test_text(
    tmp_path: Path, entries: list[Entry], family: Any, parts: Parts, info: ModelInfo, log: Any
) -> None:
    def cache() -> CachedText:
        return CachedText(tmp_path / "cache", info, log.events, computed=torch.bfloat16)

    texts = texts_of(entries + entries[:2], 0.1, ["a preview", "about i0.png"])
    assert texts == [*(f"about i{i}.png" for i in range(6)), "", "a preview"]
    assert texts_of(entries[:1], 0.0) == ["about i0.png"]
    done = fill_text(texts, family, parts, cache(), log.events, batch_size=3)
    assert (done.encoded, done.reused) == (8, 0)
    assert family.texts == texts
    assert fill_text([*texts, "new"], family, parts, cache(), log.events).encoded == 1
    found = cache().of("a preview").tensors
    assert found["pooled"].item() == len("a preview")
    assert found["ids"].tolist() == [[ord("a")] * 4]
    with pytest.raises(ModelError, match="text_encoders"):
        fill_text(["unknown"], family, Parts(info=info), cache(), log.events)


def test_training_from_the_caches(
    tmp_path: Path,
    entries: list[Entry],
    family: Any,
    parts: Parts,
    info: ModelInfo,
    open_latents: Any,
    log: Any,
) -> None:
    latents = open_latents()
    text = CachedText(tmp_path / "cache", info, log.events, computed=torch.bfloat16)
    fill_latents(entries, family, parts, latents, log.events)
    fill_text(texts_of(entries, 0.2), family, parts, text, log.events)
    for entry in entries:
        Path(entry.item.place.key).unlink()  # the caches are enough
    plan = BatchPlan(entries, batch_size=2, accumulate=2, seed=1)
    with Loader(plan, seed=1, caption_dropout=0.2, latents=latents, text=text) as loader:
        for step in range(20):
            for batch in loader.batches(step):
                assert batch.images is None
                assert batch.latents is not None
                assert batch.conditioning is not None
                assert len(batch.latents) == len(batch.conditioning) == len(batch.names)
                assert batch.conditioning.tensors["pooled"].flatten().tolist() == [
                    len(p.text) for p in batch.prompts
                ]


PROGRAM = """
import pickle, sys, time
from pathlib import Path
import torch
from torch import nn
from velatura.data.caches.cache import CachedLatents
from velatura.data.caches.fill import fill_latents
from velatura.events import Events
from velatura.interfaces import Parts

class Slow:
    def encode_image(self, parts, images, draw=None):
        time.sleep(float(sys.argv[2]))
        print("encoded", flush=True)
        return nn.functional.avg_pool2d(images, 8)

torch.set_num_threads(1)
entries, info, folder = pickle.loads(Path(sys.argv[1]).read_bytes())
import velatura.data.caches.shard_writer as writer
writer.SHARD_BYTES = 1  # a shard for every batch: as many meetings as possible
cache = CachedLatents(folder, info, Events(), computed=torch.float32)
print("ready", flush=True)
sys.stdin.readline()
parts = Parts(info=info, autoencoder=nn.Linear(1, 1))
print("done", fill_latents(entries, Slow(), parts, cache, Events(), batch_size=1).encoded, flush=True)
"""


@pytest.fixture
def start(tmp_path: Path, entries: list[Entry], info: ModelInfo) -> Any:
    """Another process that fills the cache; it waits for a line, and says "encoded" before each batch is kept."""
    given = tmp_path / "given.pickle"
    given.write_bytes(pickle.dumps((entries, info, tmp_path / "cache")))
    started: list[subprocess.Popen[str]] = []

    def run(pause: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, str(given), str(pause)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def go(process: Any) -> None:
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()


def check_whole(entries: list[Entry], cache: CachedLatents) -> None:
    for view in views_of(entries):
        image = normalise(fit(decode(view.item.place.read()), view.look))
        torch.testing.assert_close(cache.of(view).mean, torch.nn.functional.avg_pool2d(image, 8))


@pytest.mark.slow
def test_two_processes_fill_one_cache(entries: list[Entry], start: Any, open_latents: Any, log: Any) -> None:
    both = [start(0.01), start(0.01)]
    for process in both:
        go(process)
    ends = [process.communicate()[0].splitlines()[-1] for process in both]
    assert all(end.startswith("done") for end in ends)
    cache = open_latents()
    assert cache.missing(views_of(entries)) == []
    check_whole(entries, cache)
    assert not any("damaged" in text for text in log.texts)


@pytest.mark.slow
def test_killed_it_goes_on_from_what_was_kept(
    entries: list[Entry], start: Any, open_latents: Any, family: Any, parts: Parts, log: Any
) -> None:
    process = start(0.3)
    go(process)
    for _ in range(4):
        assert process.stdout.readline() == "encoded\n"
    process.kill()
    process.wait()
    done = fill_latents(entries, family, parts, open_latents(), log.events)
    assert done.reused in (3, 4)
    assert done.encoded == 9 - done.reused
    check_whole(entries, open_latents())
