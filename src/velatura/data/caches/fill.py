"""Filling the caches: what is missing is encoded once, in batches, and kept whatever happens next."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from velatura.data.batching.plan import Entry
from velatura.data.caches.cache import CachedLatents, CachedText
from velatura.data.caches.cache_place import check_room
from velatura.data.caches.shard_writer import ShardWriter
from velatura.data.decoded import load_pixels
from velatura.data.images import normalise
from velatura.data.progress import Phase, phase
from velatura.data.sharing import ALL, Share
from velatura.data.views import View, views_of
from velatura.errors import DataError, ModelError
from velatura.events import Events
from velatura.interfaces import Conditioning, Family, PartName, Parts, Posterior, Prompt
from velatura.plural import counted

_SPARE = 1.05  # headers and the file system's blocks, as a factor on the bytes of the tensors


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What a fill did."""

    encoded: int
    reused: int
    seconds: float


def fill_latents(
    entries: Sequence[Entry],
    family: Family,
    parts: Parts,
    cache: CachedLatents,
    events: Events,
    *,
    share: Share = ALL,
    batch_size: int = 4,
    workers: int | None = None,
) -> Filled:
    """Encode the views of `entries` that the cache lacks; needs the autoencoder only if some are missing.

    Several processes take a `share` each; the room on the disk is checked for all of them.

    Raises StorageError when the disk has too little room (before anything is encoded), DataError that lists
    the images that cannot be decoded (after all others were encoded and kept), NumericError for latents that
    are not finite. Interrupted at any point, it goes on from there when called again.
    """
    views = share.every_of(views_of(entries))
    missing = cache.missing(views)
    if not missing:
        return Filled(encoded=0, reused=len(views), seconds=0.0)
    check_room(
        cache.store.folder,
        int(cache.size(missing) * share.of * _SPARE),
        f"the latents of {counted(len(missing), 'image')}",
    )
    device = _device(parts, "autoencoder")
    bad: list[str] = []
    with phase(events, "cache latents", len(missing)) as progress, ShardWriter(cache.store) as writer:
        for chunk, pixels in _decoded(_chunks(missing, batch_size), workers, bad, progress):
            found = _encode_images(normalise(pixels).to(device), family, parts, cache)
            for view, one in zip(chunk, found, strict=True):
                cache.put(writer, view, one)
            progress.advance(len(chunk))
    if bad:
        shown = "\n".join(f"  {reason}" for reason in bad[:10])
        raise DataError(f"{len(bad)} of {counted(len(missing), 'image')} could not be encoded:\n{shown}")
    return _filled(events, "image", len(missing), len(views), progress.seconds)


def fill_text(
    texts: Sequence[str],
    family: Family,
    parts: Parts,
    cache: CachedText,
    events: Events,
    *,
    share: Share = ALL,
    batch_size: int = 8,
) -> Filled:
    """Encode those of `texts` that the cache lacks; needs the text encoders only if some are missing.

    Raises as `fill_latents` does; the room on the disk is checked once the first batch has shown the size.
    """
    different = share.every_of(list(dict.fromkeys(texts)))
    missing = cache.missing(different)
    if not missing:
        return Filled(encoded=0, reused=len(different), seconds=0.0)
    _device(parts, "text_encoders")
    with (
        phase(events, "cache text", len(missing), "captions") as progress,
        ShardWriter(cache.store) as writer,
    ):
        for start in range(0, len(missing), batch_size):
            chunk = missing[start : start + batch_size]
            sizes = _encode_texts(chunk, family, parts, cache, writer)
            if start == 0:
                needed = int(max(sizes) * len(missing) * share.of * _SPARE)
                check_room(
                    cache.store.folder, needed, f"the embeddings of {counted(len(missing), 'caption')}"
                )
            progress.advance(len(chunk))
    return _filled(events, "caption", len(missing), len(different), progress.seconds)


def _encode_images(images: Tensor, family: Family, parts: Parts, cache: CachedLatents) -> list[Posterior]:
    """One batch, item by item: with the deviation where the cache holds it."""
    with torch.no_grad():
        if cache.holds == "mean":
            return [Posterior(mean=one) for one in family.encode_image(parts, images)]
        found = family.posterior(parts, images)
    deviations = [None] * len(images) if found.deviation is None else found.deviation
    return [Posterior(mean=one, deviation=spread) for one, spread in zip(found.mean, deviations, strict=True)]


def _encode_texts(
    texts: Sequence[str], family: Family, parts: Parts, cache: CachedText, writer: ShardWriter
) -> list[int]:
    """Encode one batch; the bytes that each text takes."""
    with torch.no_grad():
        conditioning: Conditioning = family.encode(parts, [Prompt(text=text) for text in texts])
    return [cache.put(writer, text, conditioning.select([i])) for i, text in enumerate(texts)]


def _chunks(views: Sequence[View], batch_size: int) -> list[list[View]]:
    """Batches of one bucket."""
    chunks = []
    for _, group in groupby(views, key=lambda view: view.bucket):
        same = list(group)
        chunks += [same[i : i + batch_size] for i in range(0, len(same), batch_size)]
    return chunks


def _decoded(
    chunks: Sequence[list[View]], workers: int | None, bad: list[str], progress: Phase
) -> Iterator[tuple[list[View], Tensor]]:
    """Batches with their pixels `[B, 3, H, W]` uint8, decoded ahead by threads; what fails goes to `bad`."""
    pool = ThreadPoolExecutor(max_workers=workers or min(8, os.cpu_count() or 1), thread_name_prefix="decode")
    ahead: list[list[Future[Tensor]]] = []
    try:
        for position, chunk in enumerate(chunks):
            while len(ahead) < 3 and position + len(ahead) < len(chunks):
                ahead.append([pool.submit(load_pixels, view) for view in chunks[position + len(ahead)]])
            good, pixels = [], []
            for view, future in zip(chunk, ahead.pop(0), strict=True):
                try:
                    pixels.append(future.result())
                    good.append(view)
                except DataError as error:
                    bad.append(str(error))
                    progress.advance()
            if good:
                yield good, torch.stack(pixels)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _device(parts: Parts, part: PartName) -> torch.device:
    modules = parts.modules(part)
    if not modules:
        raise ModelError(f"the cache lacks entries and the {part} that make them are not loaded.")
    return next(modules[0].parameters()).device


def _filled(events: Events, what: str, encoded: int, total: int, seconds: float) -> Filled:
    rate = encoded / max(seconds, 1e-9)
    reused = f"; {counted(total - encoded, 'was', 'were')} in the cache" if total > encoded else ""
    events.notice(f"encoded {counted(encoded, what)} at {rate:.1f} per second{reused}")
    return Filled(encoded=encoded, reused=total - encoded, seconds=seconds)
