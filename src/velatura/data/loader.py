"""Batches for each step, prepared in the background, from caches or from image files."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from velatura.data.buckets import Bucket
from velatura.data.captions import prompts_for
from velatura.data.decoded import DecodedImages
from velatura.data.images import normalise
from velatura.data.items import Item
from velatura.data.order import Placed, Plan
from velatura.draws import Draw
from velatura.interfaces import Batch, Conditioning, Prompt


class Latents(Protocol):
    """Where latents come from: `velatura.data.cache.CachedLatents`."""

    def of(self, item: Item, bucket: Bucket, *, flip: bool) -> Tensor:
        """Latents `[C, H, W]` of one item."""
        ...


class Texts(Protocol):
    """Where text embeddings come from: `velatura.data.cache.CachedText`."""

    def of(self, text: str) -> Conditioning:
        """The conditioning of one caption, B = 1."""
        ...


class Loader:
    """Gives the batches of any step; those of the next steps are prepared by threads meanwhile.

    Without `latents` a batch holds images, decoded and kept in memory up to `memory_limit` bytes. Without
    `text` its conditioning is None and the prompts must be encoded. All randomness (flips, dropped captions)
    is drawn per (seed, step, slot), so neither threads nor resuming matter. Close it, or use it in `with`.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        seed: int = 0,
        caption_dropout: float = 0.0,
        latents: Latents | None = None,
        text: Texts | None = None,
        workers: int | None = None,
        prefetch: int = 2,
        memory_limit: int = 2 * 2**30,
    ) -> None:
        self._plan = plan
        self._seed = seed
        self._caption_dropout = caption_dropout
        self._latents = latents
        self._text = text
        self._images = DecodedImages(memory_limit)
        self._prefetch = prefetch
        self._lock = threading.Lock()  # the plan keeps its current epoch: one thread at a time
        self._ahead: dict[int, Future[list[Batch]]] = {}
        decoders = workers or min(8, os.cpu_count() or 1)
        self._decoders = ThreadPoolExecutor(max_workers=decoders, thread_name_prefix="decode")
        self._assemblers = ThreadPoolExecutor(max_workers=max(1, prefetch), thread_name_prefix="batch")

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads; what they had begun is thrown away."""
        self._assemblers.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def batches(self, step: int) -> list[Batch]:
        """The micro-batches of a step; steps count from 0, in any order (in sequence is fast).

        Raises DataError or StorageError that names the item when one cannot be read.
        """
        wanted = range(step, step + 1 + self._prefetch)
        if self._plan.steps is not None:
            wanted = range(step, max(step + 1, min(wanted.stop, self._plan.steps)))
        for stale in [number for number in self._ahead if number not in wanted]:
            self._ahead.pop(stale).cancel()
        for number in wanted:
            if number not in self._ahead:
                self._ahead[number] = self._assemblers.submit(self._make, number)
        return self._ahead.pop(step).result()

    def _make(self, step: int) -> list[Batch]:
        with self._lock:
            micro_batches = self._plan.micro_batches(step)
        decoding = [self._decode(placed) for placed in micro_batches]
        return [
            self._batch(step, placed, images) for placed, images in zip(micro_batches, decoding, strict=True)
        ]

    def _decode(self, placed: Sequence[Placed]) -> list[Future[Tensor]] | None:
        if self._latents is not None:
            return None
        return [self._decoders.submit(self._images.of, at.entry.item, at.entry.bucket) for at in placed]

    def _batch(self, step: int, placed: Sequence[Placed], decoding: Sequence[Future[Tensor]] | None) -> Batch:
        items = [at.entry.item for at in placed]
        draw = Draw.of(self._seed, step=step, slots=[at.slot for at in placed])
        flips = _flips(items, draw)
        prompts = prompts_for([item.caption for item in items], draw, self._caption_dropout)
        return Batch(
            names=tuple(item.name for item in items),
            prompts=prompts,
            weights=torch.tensor([item.weight for item in items], dtype=torch.float32),
            slots=draw.slots,
            latents=None if decoding is not None else self._stack_latents(placed, flips),
            images=None if decoding is None else _stack_images(decoding, flips),
            conditioning=self._conditioning(prompts),
        )

    def _stack_latents(self, placed: Sequence[Placed], flips: Sequence[bool]) -> Tensor:
        assert self._latents is not None
        chosen = zip(placed, flips, strict=True)
        return torch.stack(
            [self._latents.of(at.entry.item, at.entry.bucket, flip=flip) for at, flip in chosen]
        ).float()

    def _conditioning(self, prompts: Sequence[Prompt]) -> Conditioning | None:
        if self._text is None:
            return None
        return Conditioning.join([self._text.of(prompt.text) for prompt in prompts])


def _flips(items: Sequence[Item], draw: Draw) -> list[bool]:
    """Which items of the batch are mirrored in this step."""
    if not any(item.flip for item in items):
        return [False] * len(items)
    return [value < item.flip for item, value in zip(items, draw.uniform("flip").tolist(), strict=True)]


def _stack_images(decoding: Sequence[Future[Tensor]], flips: Sequence[bool]) -> Tensor:
    """`[B, 3, H, W]` in [-1, 1]."""
    pixels = [future.result() for future in decoding]
    return normalise(torch.stack([p.flip(-1) if flip else p for p, flip in zip(pixels, flips, strict=True)]))
