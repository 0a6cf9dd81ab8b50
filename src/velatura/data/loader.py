"""Batches for each step, prepared in the background, from caches or from image files."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from velatura.data.batching.order import Placed, Plan
from velatura.data.caches.memory import MEMORY
from velatura.data.decoded import DecodedImages, stack_companions
from velatura.data.images import normalise, recoloured
from velatura.data.items import Role
from velatura.data.sharing import ALL, Share
from velatura.data.text.texts import drawn_texts
from velatura.data.views import View, drawn_views
from velatura.draws import Draw
from velatura.interfaces import Batch, Conditioning, Posterior, Prompt

PREFETCH = 4  # steps whose batches are prepared beside the one in hand
_READERS = 8  # threads that mostly wait for the disk: it is fast when it is asked for much at once


class Latents(Protocol):
    """Where latents come from: `velatura.data.caches.cache.CachedLatents`."""

    def empty(self, views: Sequence[View]) -> Posterior:
        """Room for the latents of these views, `[B, C, H, W]`, not filled yet."""
        ...

    def read_into(self, room: Posterior, position: int, view: View) -> None:
        """Fill one place of `room`."""
        ...


class Texts(Protocol):
    """Where text embeddings come from: `velatura.data.caches.cache.CachedText`."""

    def empty(self, texts: Sequence[str]) -> Conditioning:
        """Room for the conditioning of these captions, not filled yet."""
        ...

    def read_into(self, room: Conditioning, position: int, text: str) -> None:
        """Fill one place of `room`."""
        ...


class Loader:
    """Gives the batches of any step; those of the next steps are prepared by threads meanwhile.

    Without `latents` a batch holds images, decoded and kept in memory up to `memory_limit` bytes. Without
    `text` its conditioning is None and the prompts must be encoded. All randomness (flips, dropped captions)
    is drawn per (seed, step, slot), so neither threads nor resuming nor the number of processes matter. Close it,
    or use it in `with`.

    Each micro-batch is shared out between the processes of a run. One that is left without an item gets the first
    one as an idle batch, so that all make the same number of passes.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        seed: int = 0,
        caption_dropout: float = 0.0,
        latents: Latents | None = None,
        text: Texts | None = None,
        share: Share = ALL,
        workers: int | None = None,
        prefetch: int = PREFETCH,
        memory_limit: int = MEMORY,
    ) -> None:
        self._plan = plan
        self._seed = seed
        self._caption_dropout = caption_dropout
        self._latents = latents
        self._text = text
        self._share = share
        self._images = DecodedImages(memory_limit)
        self._prefetch = prefetch
        self._lock = threading.Lock()  # the plan keeps its current epoch: one thread at a time
        self._ahead: dict[int, Future[list[Batch]]] = {}
        decoders = workers or min(8, os.cpu_count() or 1)
        self._decoders = ThreadPoolExecutor(max_workers=decoders, thread_name_prefix="decode")
        self._readers = ThreadPoolExecutor(max_workers=_READERS, thread_name_prefix="read")
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
        self._readers.shutdown(wait=False, cancel_futures=True)
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
        uses = [self._use(step, placed) for placed in micro_batches]
        return [self._batch(use) for use in uses]

    def _use(self, step: int, all_placed: Sequence[Placed]) -> _Use:
        """What this process's share of a micro-batch shows; its files begin to be read."""
        mine = self._share.run_of(all_placed)
        placed = mine or all_placed[:1]
        entries = [at.entry for at in placed]
        draw = Draw.of(self._seed, step=step, slots=[at.slot for at in placed])
        views = drawn_views(entries, draw, cached=self._latents is not None)
        captions = [(at.entry.item.caption, at.entry.item.treatment.wording, at.epoch) for at in placed]
        texts = drawn_texts(captions, draw, dropout=self._caption_dropout, cached=self._text is not None)
        submit = self._decoders.submit
        pixels = None if self._latents is not None else [submit(self._images.of, view) for view in views]
        return _Use(
            views=views,
            texts=texts,
            draw=draw,
            total=float(_weights(all_placed).sum()),
            weights=_weights(placed) if mine else torch.zeros(1),
            idle=not mine,
            pixels=pixels,
            embeddings=None if self._text is None else self._embeddings(self._text, texts),
            companions=[submit(self._images.companions_of, view) for view in views]
            if any(view.item.accompanied for view in views)
            else [],
        )

    def _embeddings(self, source: Texts, texts: Sequence[str]) -> _Embeddings:
        """Each is read to where the batch has it: to copy 4 MiB costs as much as to read them."""
        room = source.empty(texts)
        submit = self._readers.submit
        filled = [submit(source.read_into, room, position, text) for position, text in enumerate(texts)]
        return _Embeddings(room=room, filled=filled)

    def _batch(self, use: _Use) -> Batch:
        items = [view.item for view in use.views]
        companions = [future.result() for future in use.companions]
        return Batch(
            names=tuple(item.name for item in items),
            prompts=tuple(Prompt(text=text) for text in use.texts),
            weights=use.weights,
            slots=use.draw.slots,
            total=use.total,
            idle=use.idle,
            latents=None if self._latents is None else _sampled(self._latents, use),
            images=None if use.pixels is None else _stack_images(use),
            conditioning=None if use.embeddings is None else use.embeddings.all(),
            companions=stack_companions(companions),
        )


@dataclass(frozen=True, kw_only=True)
class _Embeddings:
    """The conditioning of a batch while its places are being filled."""

    room: Conditioning
    filled: Sequence[Future[None]]

    def all(self) -> Conditioning:
        """Wait until it is whole."""
        for future in self.filled:
            future.result()
        return self.room


@dataclass(frozen=True, kw_only=True)
class _Use:
    """A micro-batch on its way: what was drawn, and the files that are being read."""

    views: Sequence[View]
    texts: Sequence[str]
    draw: Draw
    weights: Tensor
    total: float  # of the weights of all processes
    idle: bool
    pixels: Sequence[Future[Tensor]] | None
    embeddings: _Embeddings | None
    companions: Sequence[Future[dict[Role, Tensor]]]


def _weights(placed: Sequence[Placed]) -> Tensor:
    return torch.tensor([at.entry.item.treatment.weight for at in placed], dtype=torch.float32)


def _sampled(latents: Latents, use: _Use) -> Tensor:
    """`[B, C, H, W]` float32; a sample where deviations are cached, the one that an uncached run draws."""
    room = latents.empty(use.views)
    for position, view in enumerate(use.views):
        latents.read_into(room, position, view)
    deviation = None if room.deviation is None else room.deviation.float()
    return Posterior(mean=room.mean.float(), deviation=deviation).sample(use.draw)


def _stack_images(use: _Use) -> Tensor:
    """`[B, 3, H, W]` in [-1, 1], some with other colours."""
    assert use.pixels is not None
    pixels = [future.result() for future in use.pixels]
    chances = [view.item.treatment.colour for view in use.views]
    if any(chances):
        drawn = use.draw.uniform("colour", (3,)).tolist()
        pixels = [
            _recoloured(one, turn, amount) if chance > happens else one
            for one, chance, (happens, turn, amount) in zip(pixels, chances, drawn, strict=True)
        ]
    return normalise(torch.stack(pixels))


def _recoloured(pixels: Tensor, which: float, amount: float) -> Tensor:
    """A turned hue (by up to 16 degrees) or another gamma (0.95 to 1.05), as sd-scripts' colour augmentation."""
    if which < 0.5:
        return recoloured(pixels, hue=(2 * amount - 1) * 16 / 360, gamma=1)
    return recoloured(pixels, hue=0, gamma=0.95 + 0.1 * amount)
