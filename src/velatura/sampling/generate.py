"""`velatura generate`: orders from the command line, pictures with their history inside on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

import velatura
from velatura.checkpoints.fingerprint import fingerprint
from velatura.data.images import decode
from velatura.errors import ModelError, RecipeError
from velatura.events import Events, PhaseFinished, PhaseProgress, PhaseStarted
from velatura.recipe.families.files import ModelSection
from velatura.sampling.pipeline import Pipeline
from velatura.sampling.png import read_record, save_png
from velatura.sampling.request import Request

DEFAULT_MODEL = "pocket/flux"


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
    request, facts = (Request(prompt=""), {}) if order.like is None else read_record(order.like)
    order = _completed(order, facts)
    request = _changed(request, order)
    pipeline = Pipeline.load(
        order.section or order.model or DEFAULT_MODEL,
        base=order.base,
        device=order.device,
        precision=order.precision,
    )
    if facts and order.like is not None:
        _check_same_model(pipeline, facts, order.like)
        _check_same_loras(order, facts, order.like)
    for file, weight in order.loras:
        pipeline.add_lora(file, weight)
    image = None if order.image is None else decode(order.image)
    if image is not None and order.size is None and request.width is None:
        request = replace(request, width=image.width, height=image.height)
    request = pipeline.complete(request)
    if request.negative and request.cfg == 1:
        events.warn("the negative prompt has no effect at cfg = 1: set cfg above 1, or leave it out")
    kept = int(str(facts["place"])) if facts else None
    history = _history(pipeline, order)
    pictures: list[Picture] = []
    for painted, place, picture in _paint_all(pipeline, request, image, order.count, kept, events):
        path = _numbered(order.out, len(pictures), order.count * request.batch if kept is None else 1)
        save_png(picture, path, painted, {**history, "place": place})
        pictures.append(Picture(path=path, request=painted, place=place))
    return pictures


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
        events(PhaseStarted(phase="paint", total=current.steps or 0, unit="steps"))
        images = pipeline.paint(
            current, image=image, progress=lambda done, total: events(PhaseProgress(phase="paint", done=done))
        )
        events(PhaseFinished(phase="paint", seconds=0.0))
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


def _completed(order: Order, facts: dict[str, Any]) -> Order:
    """The order with the model, LoRAs, precision and input image of the picture that is to be repeated."""
    if not facts:
        return order
    loras = tuple((Path(entry["file"]), float(entry["weight"])) for entry in facts.get("loras", ()))
    model = None if order.section else order.model or facts["model"]
    image = order.image or (Path(facts["image"]) if facts.get("image") else None)
    precision = facts["precision"] if order.precision == "auto" else order.precision
    return replace(order, model=model, loras=order.loras or loras, image=image, precision=precision)


def _check_same_model(pipeline: Pipeline, facts: dict[str, Any], like: Path) -> None:
    here = pipeline.info.fingerprints["denoiser"]
    if facts["model_hash"] != here:
        raise ModelError(
            f"{like} was painted by a model with hash {facts['model_hash']}; this one has {here}, "
            "so the picture would be another. Give the model that it was made with: --model."
        )


def _check_same_loras(order: Order, facts: dict[str, Any], like: Path) -> None:
    """Files that are named in the picture must be what they were; others were chosen anew."""
    known = {Path(entry["file"]): entry["hash"] for entry in facts.get("loras", ())}
    for file, _ in order.loras:
        if known.get(file, here := fingerprint(file)) != here:
            raise ModelError(
                f"{like} was painted with the LoRA {file} when its hash was {known[file]}; now it is {here}, so the "
                "picture would be another. Give the file that it was made with: --lora."
            )


def _history(pipeline: Pipeline, order: Order) -> dict[str, Any]:
    """How the picture is made, for its metadata."""
    return {
        "velatura": velatura.__version__,
        "model": order.model or (DEFAULT_MODEL if order.section is None else _named(order.section)),
        "model_hash": pipeline.info.fingerprints["denoiser"],
        "precision": {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[
            str(pipeline.dtype).split(".")[-1]
        ],
        "loras": [{"file": str(f), "weight": w, "hash": fingerprint(f)} for f, w in order.loras],
        "image": None if order.image is None else str(order.image),
    }


def _named(section: ModelSection) -> str:
    return section.model or section.denoiser or ""


def _numbered(out: Path, number: int, total: int) -> Path:
    if out.suffix.lower() != ".png":
        raise RecipeError(f"--out must end in .png, received {out}")
    return out if total == 1 else out.with_name(f"{out.stem}-{number:03d}.png")
