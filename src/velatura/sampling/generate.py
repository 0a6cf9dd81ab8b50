"""`velatura generate`: orders from the command line, pictures with their history inside on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import velatura
from velatura.errors import RecipeError
from velatura.events import Events, PhaseFinished, PhaseProgress, PhaseStarted
from velatura.plural import counted
from velatura.sampling.history import History, check_same, differences, history_in, part_hashes, used
from velatura.sampling.order import DEFAULT_MODEL, Order, changed, completed
from velatura.sampling.pipeline import Pipeline
from velatura.sampling.placing import STATED, Job, Planner, place_by
from velatura.sampling.png import check_place, read_record, save_png, try_place
from velatura.sampling.request import Request
from velatura.sampling.samplers import SAMPLERS
from velatura.sampling.start import StartPicture, read_start

MAX_PICTURES = 10_000  # of one order
PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One saved picture."""

    path: Path
    request: Request
    place: int  # in its batch

    def record(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"path": str(self.path), "place": self.place, **asdict(self.request)}


def generate(order: Order, events: Events, planner: Planner | None = None) -> Iterator[Picture]:
    """Paint, save and yield one picture after another.

    With `like`, what that PNG says is the default of everything the order leaves open. `planner` decides how parts are
    held, as far as the order leaves that open. Raises RecipeError, ModelError, CheckpointError, StorageError, and
    what `planner` raises.
    """
    paths = _checked_paths(order)
    request, past = Request(prompt=""), None
    if order.like is not None:
        request, facts = read_record(order.like)
        past = history_in(facts, order.like, request.batch)
        order = completed(order, past)
    request = changed(request, order)
    start = _start(order, events)
    _tell_replaced(paths, start, events)
    pipeline = Pipeline.load(
        order.section or order.model or DEFAULT_MODEL,
        base=order.base,
        device=order.device,
        precision=order.precision,
        weights=order.weights or "full",
        autoencoder=order.autoencoder or "auto",
        streamed=order.streamed or 0.0,
        text_encoders=order.text_encoders or "auto",
        attention=order.attention or "sdpa",
        split_attention=order.split_attention,
        compiled=order.compiled,
        events=events,
    )
    if start is not None and order.size is None and request.width is None:
        request = _sized_by(start, request, pipeline.parts.info.size_step)
    request = pipeline.complete(request)
    if planner is not None:
        place_by(pipeline.held, planner(_job(order, pipeline, request), events))
    image = None if start is None else start.decoded()
    history = _history(pipeline, order, start)
    if past is not None and order.like is not None:
        check_same(past, history, order.like)
        for line in differences(past, history):
            events.warn(f"{order.like} may not be repeated exactly: {line}")
    for file, weight in order.loras:
        pipeline.add_lora(file, weight)
    kept = None if past is None else past.place
    painted = _paint_all(pipeline, request, image, order.count, kept, events)
    for path, (current, place, picture) in zip(paths, painted, strict=True):
        save_png(picture, path, current, replace(history, place=place).facts())
        yield Picture(path=path, request=current, place=place)


def _job(order: Order, pipeline: Pipeline, request: Request) -> Job:
    return Job(
        held=pipeline.held,
        request=request,
        count=order.count,
        changes_picture=order.image is not None,
        loras=tuple(file for file, _ in order.loras),
        stated=frozenset(name for name in STATED if getattr(order, name) is not None),
    )


def _checked_paths(order: Order) -> list[Path]:
    """Where the pictures go. What can be told of them before anything is loaded is told here."""
    if order.like is not None and (order.count, order.batch) != (1, 1):
        raise RecipeError("--like repeats one picture; --count and --batch do not go with it")
    total = order.count * order.batch
    if total > MAX_PICTURES:
        raise RecipeError(
            f"count x batch must be at most {MAX_PICTURES:,}, received {order.count} x {order.batch}"
        )
    digits = max(3, len(str(total - 1)))
    names = [f"{order.out.stem}-{number:0{digits}d}.png" for number in range(total)]
    paths = [order.out] if total == 1 else [order.out.with_name(name) for name in names]
    for path in paths:
        check_place(path)
    try_place(paths[0])  # all go into one folder
    return paths


def _start(order: Order, events: Events) -> StartPicture | None:
    """The picture that painting starts from, if there is one."""
    if order.image is None:
        return None
    start = read_start(order.image)
    if start.header.frames > 1:
        events.notice(f"{order.image} is an animation; its first frame is taken")
    return start


def _sized_by(start: StartPicture, request: Request, step: int) -> Request:
    """The request with the size of the picture that painting starts from. Raises RecipeError where none has it."""
    width, height = start.header.width, start.header.height
    if width % step or height % step:
        near = f"{max(step, width // step * step)}x{max(step, height // step * step)}"
        raise RecipeError(
            f"--image {start.path} is {width}x{height}, and both edges must be multiples of {step} for this model: "
            f"cut or resize it, for example to {near}"
        )
    return replace(request, width=width, height=height)


def _tell_replaced(paths: list[Path], start: StartPicture | None, events: Events) -> None:
    """Say which pictures will be replaced. Raises RecipeError where the picture that is read is one of them."""
    there = [path for path in paths if path.exists()]
    if start is not None and start.path.resolve() in [path.resolve() for path in there]:
        raise RecipeError(
            f"--out would replace {start.path}, the picture that is changed; give another --out"
        )
    if there:
        are = counted(len(there), "picture is", "pictures are")
        events.notice(
            f"{are} there already and will be replaced: {there[0]}{', …' if len(there) > 1 else ''}"
        )


def _paint_all(
    pipeline: Pipeline,
    request: Request,
    image: Image.Image | None,
    count: int,
    kept: int | None,
    events: Events,
) -> Iterator[tuple[Request, int, Image.Image]]:
    """(request, place in the batch, picture) for every picture; with `kept`, only that place of one batch."""
    for number in range(1 if kept is not None else count):
        current = replace(request, first=request.first + number * request.batch)
        started = time.perf_counter()
        events(PhaseStarted(phase="paint", total=current.steps or 0, unit="steps"))
        images = pipeline.paint(
            current, image=image, progress=lambda done, total: events(PhaseProgress(phase="paint", done=done))
        )
        events(PhaseFinished(phase="paint", seconds=time.perf_counter() - started))
        for place, picture in enumerate(images):
            if kept is None or place == kept:
                yield current, place, picture


def _history(pipeline: Pipeline, order: Order, start: StartPicture | None) -> History:
    section, held, info = order.section, pipeline.held, pipeline.parts.info
    named = DEFAULT_MODEL if section is None else section.model or section.denoiser or ""
    return History(
        velatura=velatura.__version__,
        model=order.model or named,
        parts=part_hashes(info),
        sampler=SAMPLERS[info.prediction],
        precision=PRECISIONS[held.dtype],
        weights=held.weights,
        autoencoder=held.parts.pieces,
        attention=held.attention.name,
        split_attention=held.attention.split,
        compiled=held.compiled,
        text_encoders=held.text_encoders,
        device=held.device.type,
        loras=used(order.loras),
        image=None if start is None else str(start.path),
        image_hash=None if start is None else start.header.content,
    )
