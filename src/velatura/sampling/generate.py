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
from velatura.checkpoints.fingerprint import fingerprint
from velatura.data.images import decode
from velatura.errors import RecipeError
from velatura.events import Events, PhaseFinished, PhaseProgress, PhaseStarted
from velatura.recipe.families.files import ModelSection
from velatura.sampling.history import History, check_same, history_in, used
from velatura.sampling.pipeline import Pipeline
from velatura.sampling.png import read_record, save_png
from velatura.sampling.request import Request

DEFAULT_MODEL = "pocket/flux"
PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the user asked for; None: not said."""

    out: Path
    model: str | None = None
    section: ModelSection | None = None  # a recipe's [model], in place of `model`
    base: Path | None = None  # where the section's paths start
    prompt: str | None = None
    negative: str | None = None
    seed: int | None = None
    steps: int | None = None
    size: tuple[int, int] | None = None
    guidance: float | None = None
    cfg: float | None = None
    loras: tuple[tuple[Path, float], ...] = ()
    image: Path | None = None
    strength: float | None = None
    like: Path | None = None
    count: int = 1
    batch: int = 1
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One saved picture."""

    path: Path
    request: Request
    place: int  # in its batch

    def record(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"path": str(self.path), "place": self.place, **asdict(self.request)}


def generate(order: Order, events: Events) -> list[Picture]:
    """Paint and save. With `like`, what that PNG says is the default of everything the order leaves open.

    Raises RecipeError, ModelError, CheckpointError, StorageError.
    """
    _check(order)
    request, past = Request(prompt=""), None
    if order.like is not None:
        request, facts = read_record(order.like)
        past = history_in(facts, order.like, request.batch)
        order = _completed(order, past)
    request = _changed(request, order)
    image = None if order.image is None else _decoded(order.image)
    if image is not None and order.size is None and request.width is None:
        request = replace(request, width=image.width, height=image.height)
    pipeline = Pipeline.load(
        order.section or order.model or DEFAULT_MODEL,
        base=order.base,
        device=order.device,
        precision=order.precision,
        events=events,
    )
    request = pipeline.complete(request)
    history = _history(pipeline, order)
    if past is not None and order.like is not None:
        check_same(past, history, pipeline.info, order.like)
    for file, weight in order.loras:
        pipeline.add_lora(file, weight)
    kept = None if past is None else past.place
    pictures: list[Picture] = []
    for painted, place, picture in _paint_all(pipeline, request, image, order.count, kept, events):
        path = _numbered(order.out, len(pictures), order.count * request.batch if kept is None else 1)
        save_png(picture, path, painted, replace(history, place=place).facts())
        pictures.append(Picture(path=path, request=painted, place=place))
    return pictures


def _check(order: Order) -> None:
    """What can be told before anything is loaded."""
    if order.out.suffix.lower() != ".png":
        raise RecipeError(f"--out must end in .png, received {order.out}")
    if order.like is not None and (order.count, order.batch) != (1, 1):
        raise RecipeError("--like repeats one picture; --count and --batch do not go with it")


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


def _changed(request: Request, order: Order) -> Request:
    """The request with what the order says."""
    said = {
        "prompt": order.prompt,
        "negative": order.negative,
        "seed": order.seed,
        "steps": order.steps,
        "guidance": order.guidance,
        "cfg": order.cfg,
        "strength": order.strength,
        "width": order.size and order.size[0],
        "height": order.size and order.size[1],
        "batch": None if order.like is not None else order.batch,
    }
    return replace(request, **{name: value for name, value in said.items() if value is not None})  # type: ignore[arg-type]


def _completed(order: Order, past: History) -> Order:
    """The order with the model, LoRAs, precision and input image of the picture that is to be repeated."""
    loras = tuple((Path(lora.file), lora.weight) for lora in past.loras)
    return replace(
        order,
        model=None if order.section else order.model or past.model,
        loras=order.loras or loras,
        image=order.image or (Path(past.image) if past.image else None),
        precision=past.precision if order.precision == "auto" else order.precision,
    )


def _history(pipeline: Pipeline, order: Order) -> History:
    section = order.section
    named = DEFAULT_MODEL if section is None else section.model or section.denoiser or ""
    return History(
        velatura=velatura.__version__,
        model=order.model or named,
        model_hash=pipeline.info.fingerprints["denoiser"],
        precision=PRECISIONS[pipeline.dtype],
        loras=used(order.loras),
        image=None if order.image is None else str(order.image),
        image_hash=None if order.image is None else fingerprint(order.image),
    )


def _decoded(path: Path) -> Image.Image:
    try:
        return decode(path.read_bytes())
    except Exception as error:  # decoders raise anything on damaged data
        raise RecipeError(f"--image {path} cannot be read: {error or type(error).__name__}") from None


def _numbered(out: Path, number: int, total: int) -> Path:
    return out if total == 1 else out.with_name(f"{out.stem}-{number:03d}.png")
