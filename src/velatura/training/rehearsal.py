"""A run's set-up without its weights: parts are opened, checked and put together on the meta device.

No tensor is read there, but every file is opened, every name and shape is compared, tokenizers are loaded, and what is
trained is chosen, all by the code of the run itself: what would fail in a set-up fails here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from velatura.interfaces import PartName, Parts
from velatura.placement.precision.quantised import QuantisedLinear, quantise_blocks
from velatura.training.setup import Setup
from velatura.training.starting import take_values
from velatura.training.trainables import Trainables, make_trainables

META = torch.device("meta")


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """What a run would train, and the frozen weights of the denoiser under an adapter: how many, in how many bytes."""

    trainables: Trainables
    frozen: int
    frozen_bytes: int


def sketch_parts(setup: Setup, names: Sequence[PartName]) -> Parts:
    """Parts as the run would load them, without weights; text encoders come with working tokenizers.

    Raises ModelError and CheckpointError as loading does.
    """
    parts = Parts(info=setup.info)
    for name in names:
        scratch = name in setup.files.from_scratch  # such weights would be drawn, and are not needed either
        with META if scratch else nullcontext():
            loaded = setup.family.load(setup.files, [name], device=META, dtype=setup.dtype)
        for field in (name, "tokenizers") if name == "text_encoders" else (name,):
            setattr(parts, field, getattr(loaded, field))
    return parts


def rehearse(setup: Setup) -> Rehearsed:
    """Put together what the loop would train. Raises RecipeError, ModelError or CheckpointError as the run would."""
    encoded: set[PartName] = set()  # parts that are released before the loop begins
    if setup.caches_text:
        encoded.add("text_encoders")
    if setup.caches_latents:
        encoded.add("autoencoder")
    sketch_parts(setup, sorted(encoded - set(setup.stays_loaded)))
    parts = sketch_parts(setup, setup.stays_loaded)
    weights, size = 0, 0
    if parts.denoiser is not None and setup.recipe.adapter is not None:
        weights = _count(parts.denoiser)
        size = weights * setup.dtype.itemsize
        if setup.recipe.memory.weights != "full":
            blocks = setup.family.blocks(parts.denoiser)
            before = sum(map(_count, blocks))
            quantise_blocks(blocks, setup.recipe.memory.weights)
            size -= (before - sum(map(_count, blocks))) * setup.dtype.itemsize
            size += sum(buffer.nbytes for layer in _quantised(blocks) for buffer in layer.buffers())
    trainables = make_trainables(setup.recipe, setup.family, parts)
    take_values(trainables, setup.recipe)
    return Rehearsed(trainables=trainables, frozen=weights, frozen_bytes=size)


def _quantised(blocks: Sequence[nn.Module]) -> Iterator[nn.Module]:
    for block in blocks:
        yield from (layer for layer in block.modules() if isinstance(layer, QuantisedLinear))


def _count(module: nn.Module) -> int:
    """Weights that are parameters; those in few bits are buffers."""
    return sum(parameter.numel() for parameter in module.parameters())
