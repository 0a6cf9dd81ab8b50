"""The loop over pictures: read, let the model look at a batch, write each result whole."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from PIL import Image

from velatura.checkpoints.writing import write_bytes
from velatura.data.images import decode
from velatura.data.labelling.targets import Target
from velatura.data.progress import phase
from velatura.data.scanning.probe import BadImageError, damage, read_image
from velatura.errors import VelaturaError
from velatura.events import Events

T = TypeVar("T")
Labeller = Callable[[Sequence[Image.Image]], Sequence[T]]
_Read = tuple[Target, Image.Image | str]  # or the reason why it cannot be read


@dataclass(frozen=True, kw_only=True)
class Kind(Generic[T]):
    """What is made of pictures: how it is called, how it is written, and why one of them is of no use."""

    phase: str
    encode: Callable[[T], bytes]
    refuse: Callable[[T], str | None]


def _png(mask: Image.Image) -> bytes:
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return buffer.getvalue()


CAPTIONS: Kind[str] = Kind(
    phase="caption",
    encode=lambda text: f"{text}\n".encode("utf-8", "replace"),
    refuse=lambda text: None if text else "the model said nothing",
)
MASKS: Kind[Image.Image] = Kind(
    phase="mask",
    encode=_png,
    refuse=lambda mask: None if mask.getbbox() else "nothing of what is wanted was found in it",
)


@dataclass(kw_only=True)
class Labelled:
    """What was done."""

    written: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)  # picture and reason


def label(
    targets: Sequence[Target],
    model: Labeller[T],
    kind: Kind[T],
    events: Events,
    *,
    batch_size: int,
) -> Labelled:
    """Write a file for each target. Stopped at any point, what was written is whole, and the rest can be done later.

    Pictures that cannot be read, and results that are of no use, are skipped with the reason. Raises StorageError, and
    VelaturaError when the device has too little memory for a batch.
    """
    done = Labelled()
    with (
        phase(events, kind.phase, len(targets)) as progress,
        ThreadPoolExecutor(max_workers=4, thread_name_prefix=kind.phase) as pool,
    ):
        for batch in _read_ahead(targets, batch_size, pool):
            sound = [(target, image) for target, image in batch if not isinstance(image, str)]
            done.skipped += [(target.name, why) for target, why in batch if isinstance(why, str)]
            made = _looked_at([image for _, image in sound], model) if sound else []
            for (target, _), result in zip(sound, made, strict=True):
                if why := kind.refuse(result):
                    done.skipped.append((target.name, why))
                    continue
                write_bytes(target.file, kind.encode(result))
                done.written += 1
            progress.advance(len(batch))
    return done


def _looked_at(images: Sequence[Image.Image], model: Labeller[T]) -> Sequence[T]:
    try:
        return model(images)
    except torch.OutOfMemoryError as error:
        raise VelaturaError(
            f"the device has too little memory for {len(images)} at a time; lower --batch-size."
        ) from error


def _read_ahead(targets: Sequence[Target], size: int, pool: ThreadPoolExecutor) -> Iterator[list[_Read]]:
    """Batches of decoded pictures; the next one is read while one is looked at."""
    chunks = [targets[start : start + size] for start in range(0, len(targets), size)]
    waiting: list[Future[_Read]] = []
    for chunk in chunks:
        coming = [pool.submit(_read, target) for target in chunk]
        if waiting:
            yield [one.result() for one in waiting]
        waiting = coming
    if waiting:
        yield [one.result() for one in waiting]


def _read(target: Target) -> _Read:
    try:
        data, _ = read_image(target.image, max_pixels=target.max_pixels)
        return target, decode(data)
    except BadImageError as error:
        return target, str(error)
    except Exception as error:
        return target, damage(error)
