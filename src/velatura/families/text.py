"""CLIP and T5 text encoders: what they are, and finding them where the user says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import CLIPTextModel, T5EncoderModel

from velatura.checkpoints.text_keys import (
    CLIP_IGNORED,
    T5_IGNORED,
    clip_config,
    clip_text_encoder,
    t5_config,
    t5_encoder,
)
from velatura.errors import ModelError
from velatura.families.locate import locate, part_path
from velatura.families.network import Place, TransformersNetwork
from velatura.interfaces import ModelFiles

CLIP = TransformersNetwork(
    what="CLIP text encoder",
    kind="clip-text-encoder",
    model=CLIPTextModel,
    find=lambda checkpoint: clip_text_encoder(
        checkpoint, ()
    ),  # modules without `text_model.` before their names
    shapes=clip_config,
    published="clip-l-text-encoder",
    ignore=CLIP_IGNORED,
    tokenizer="clip",
    prefix="text_model",
)
T5 = TransformersNetwork(
    what="T5 text encoder",
    kind="t5-encoder",
    model=T5EncoderModel,
    find=t5_encoder,
    shapes=t5_config,
    published="t5-xxl-encoder",
    ignore=T5_IGNORED,
    tokenizer="t5",
)


@dataclass(frozen=True, kw_only=True)
class TextPlace(Place):
    """A text encoder among a family's parts, and its tokenizer."""

    network: TransformersNetwork
    tokenizer_subfolder: str
    length: int  # the most tokens that it reads, with the marks at the ends


def encoder_paths(files: ModelFiles, places: Sequence[TextPlace]) -> list[Path]:
    """Paths of the text encoders in the order of `places`; files are told apart by what they hold.

    One folder may hold all of them, and so may one file. Raises ModelError.
    """
    subfolders = [place.subfolder for place in places]
    if not files.text_encoders:
        return [part_path(files, None, name, "text encoder") for name in subfolders]
    patterns = [f"{name}/*" for name in subfolders] if len(files.text_encoders) < len(places) else []
    given = [locate(source, files.base, patterns=patterns) for source in files.text_encoders]
    if len(given) == 1 and all((given[0] / name).is_dir() for name in subfolders):
        return [given[0] / name for name in subfolders]
    if len(given) == 1 and given[0].is_file() and all(place.network.fits(given[0]) for place in places):
        return given * len(places)
    if len(given) != len(places):
        raise ModelError(f"model.text_encoders wants {len(places)} files or folders, received {len(given)}")
    return given if len(given) == 1 else _in_order(given, places)


def _in_order(given: Sequence[Path], places: Sequence[TextPlace]) -> list[Path]:
    """Each place takes the first path that fits it; those that nothing fits take what is left, as given."""
    left = list(given)
    taken: dict[str, Path] = {}
    for place in places:
        if (path := next((path for path in left if place.network.fits(path)), None)) is not None:
            left.remove(path)
            taken[place.subfolder] = path
    return [taken.get(place.subfolder) or left.pop(0) for place in places]
