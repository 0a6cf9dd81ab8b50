"""What the user wants painted, and how it is completed by a picture that is to be repeated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from velatura.interfaces import Pieces
from velatura.placement.attention import AttentionName
from velatura.placement.precision.quantised import Weights
from velatura.recipe.families.files import ModelSection
from velatura.sampling.history import History
from velatura.sampling.memory import Encoders
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
    weights: Weights | None = None
    autoencoder: Pieces | None = None
    streamed: float | None = None
    text_encoders: Encoders | None = None
    attention: AttentionName | None = None
    split_attention: bool = False
    compiled: bool = False


def changed(request: Request, order: Order) -> Request:
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


def completed(order: Order, past: History) -> Order:
    """The order with the model, LoRAs, precision and input image of the picture that is to be repeated."""
    loras = tuple((Path(lora.file), lora.weight) for lora in past.loras)
    return replace(
        order,
        model=None if order.section else order.model or past.model,
        loras=order.loras or loras,
        image=order.image or (Path(past.image) if past.image else None),
        precision=past.precision if order.precision == "auto" else order.precision,
        weights=order.weights or past.weights,
        autoencoder=order.autoencoder or past.autoencoder,
        attention=order.attention or past.attention,
        split_attention=order.split_attention or past.split_attention,
        compiled=order.compiled or past.compiled,
        text_encoders=order.text_encoders or past.text_encoders,
    )
