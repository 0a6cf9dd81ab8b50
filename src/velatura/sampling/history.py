"""How a picture was made, besides its request: the model and the files that went into it, each with its hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from velatura.checkpoints.fingerprint import fingerprint
from velatura.errors import ModelError, RecipeError
from velatura.interfaces import ModelInfo, Pieces
from velatura.placement.attention import AttentionName
from velatura.placement.precision.quantised import Weights
from velatura.sampling.memory import Encoders

SHOWN = 12  # digits of a hash
NAMES = {"text_encoders": "text encoders", "settings": "settings (scheduler, and options of [model])"}


@dataclass(frozen=True, kw_only=True)
class UsedLora:
    """A LoRA file and its weight."""

    file: str
    weight: float
    hash: str


@dataclass(frozen=True, kw_only=True)
class History:
    """What a PNG says besides its request."""

    velatura: str  # version
    model: str
    parts: Mapping[str, str]  # hash of each part's files, and of the settings they work with
    sampler: str
    precision: str
    weights: Weights
    device: str  # its kind: "cpu", "cuda"
    autoencoder: Pieces = "auto"
    attention: AttentionName = "sdpa"
    split_attention: bool = False
    compiled: bool = False  # which rounds otherwise
    text_encoders: Encoders = "auto"  # where they run; with "cpu" another device rounds otherwise
    loras: tuple[UsedLora, ...] = ()
    image: str | None = None  # the picture that was changed
    image_hash: str | None = None
    place: int = 0  # in its batch

    def facts(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def history_in(facts: Mapping[str, object], file: Path, batch: int) -> History:
    """The history in a PNG's facts. Raises RecipeError where it is not complete."""
    try:
        history = TypeAdapter(History).validate_python(dict(facts))
    except ValidationError as error:
        missing = ", ".join(str(name) for problem in error.errors() for name in problem["loc"][:1])
        raise RecipeError(
            f"{file} does not say all that is needed to repeat it ({missing}): is it a preview of a training? Only "
            "pictures painted by `velatura generate` can be repeated; give its prompt and the trained file instead."
        ) from None
    if not 0 <= history.place < batch:
        raise RecipeError(f"{file} says that it is picture {history.place} of a batch of {batch}")
    return history


def used(loras: tuple[tuple[Path, float], ...]) -> tuple[UsedLora, ...]:
    """LoRA files with their hashes. Raises CheckpointError where one cannot be read."""
    return tuple(UsedLora(file=str(file), weight=weight, hash=fingerprint(file)) for file, weight in loras)


def part_hashes(info: ModelInfo) -> dict[str, str]:
    """What decides the pixels of a model, by part."""
    return {**info.fingerprints, "settings": info.settings}


def check_same(past: History, now: History, like: Path) -> None:
    """Refuse to repeat a picture with another model, or with files that changed since; files chosen anew are fine.

    Raises ModelError.
    """
    if changed := [
        name for name in {**past.parts, **now.parts} if past.parts.get(name) != now.parts.get(name)
    ]:
        told = "; ".join(
            f"the {NAMES.get(name, name)} had the hash {_short(past, name)} and now {_short(now, name)}"
            for name in changed
        )
        raise ModelError(
            f"{like} was painted by another model than {now.model}: {told}. The picture would be another. Give the "
            "model that it was made with: --model, or --recipe for single files."
        )
    hashes = {lora.file: lora.hash for lora in past.loras}
    for lora in now.loras:
        if hashes.get(lora.file, lora.hash) != lora.hash:
            raise ModelError(
                f"{like} was painted with the LoRA {lora.file} when its hash was {hashes[lora.file]}; now it is "
                f"{lora.hash}, so the picture would be another. Give the file that it was made with: --lora."
            )
    if past.image is not None and past.image == now.image and past.image_hash != now.image_hash:
        raise ModelError(
            f"{like} was made from {past.image} when its hash was {past.image_hash}; now it is {now.image_hash}, "
            "so the picture would be another. Give the image that it was made from: --image."
        )


def _short(history: History, part: str) -> str:
    return history.parts.get(part, "")[:SHOWN] or "none"


def differences(past: History, now: History) -> list[str]:
    """What else may make a repeated picture differ in its last bits, a line each."""
    pairs = [
        ("velatura", past.velatura, now.velatura),
        ("the device", past.device, now.device),
        ("the precision", past.precision, now.precision),
        ("the precision of the denoiser's weights", past.weights, now.weights),
        ("the autoencoder", past.autoencoder, now.autoencoder),
        ("the attention", past.attention, now.attention),
        ("the denoiser compiled", past.compiled, now.compiled),
    ]
    if now.device != "cpu":
        pairs.append(("the text encoders' place", past.text_encoders, now.text_encoders))
    return [f"{what} was {before} and is {here} now" for what, before, here in pairs if before != here]
