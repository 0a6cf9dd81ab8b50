"""How the parts of a model are held while it paints, and what is known when a plan decides it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from velatura.events import Events
from velatura.interfaces import Pieces
from velatura.placement.precision.quantised import Weights
from velatura.sampling.held import HeldParts
from velatura.sampling.memory import Encoders
from velatura.sampling.request import Request

STATED = ("weights", "streamed", "text_encoders", "autoencoder")  # fields of Placement that a user may state


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How parts are held. `turns`: the text encoders are released before the denoiser is loaded."""

    turns: bool = False
    weights: Weights = "full"
    streamed: float = 0.0
    text_encoders: Encoders = "auto"
    autoencoder: Pieces = "auto"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be painted, before a weight is read."""

    held: HeldParts
    request: Request  # filled
    count: int  # of batches, one after another
    changes_picture: bool  # painting starts from one
    loras: tuple[Path, ...]
    stated: frozenset[str]  # fields of Placement that the user decided


Planner = Callable[[Job, Events], Placement]


def place_by(held: HeldParts, placement: Placement) -> None:
    """Let parts that are not loaded yet be held so."""
    held.turns = placement.turns
    held.weights = placement.weights
    held.streamed = placement.streamed
    held.text_encoders = placement.text_encoders
    held.parts.pieces = placement.autoencoder
