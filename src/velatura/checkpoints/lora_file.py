"""LoRA files in one form, whatever tool wrote them, and back to the formats that other tools read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from velatura.checkpoints.checkpoint import Checkpoint
from velatura.checkpoints.lora_alpha import FOLDED, fold, folded_note, peft_alphas, unfold
from velatura.checkpoints.lora_names import (
    Layout,
    LoraFormat,
    Part,
    Place,
    Role,
    file_name,
    layout_of,
    parse_key,
)
from velatura.checkpoints.opening import open_checkpoint
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class LoraLayer:
    """One adapted layer: delta W = (alpha / r) * up @ down.

    part: which network it sits in. module: its dotted path there, in the layout of the file it belongs to; CLIP's begin
    with `text_model.`. down `[r, in]`, up `[out, r]`; convolutions have two more dimensions, down `[r, in, kh, kw]`.
    """

    part: Part
    module: str
    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Rank r of the update."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / r."""
        return self.alpha / self.rank

    def delta(self) -> Tensor:
        """The update of the weight, float32 `[out, in, …]`."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return (product * self.scale).reshape(self.up.shape[0], *self.down.shape[1:])


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """What a LoRA file holds.

    layout: how the denoiser's modules are named: "bfl" (fused layers), "diffusers" (split layers) or "unet" (SD).
    format: the naming of the file it came from or goes to.
    """

    layers: tuple[LoraLayer, ...]
    layout: Layout
    format: LoraFormat
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The different ranks, ascending."""
        return tuple(sorted({layer.rank for layer in self.layers}))

    def of(self, part: Part) -> tuple[LoraLayer, ...]:
        """The layers on one network."""
        return tuple(layer for layer in self.layers if layer.part == part)


def read_lora(source: Path | str | Checkpoint) -> LoraFile:
    """Read a LoRA of FLUX or SD 1.x, from kohya, diffusers, PEFT, ai-toolkit, ComfyUI, OneTrainer or DiffSynth.

    Raises ModelError when a key is not understood, when a layer lacks a half, or for another kind of adapter (DoRA,
    LoHa, LoKr, …), naming it: nothing is left out.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    halves: dict[Place, dict[Role, str]] = {}
    formats: set[LoraFormat] = set()
    for key in checkpoint:
        place, role, kind = parse_key(key, checkpoint.name)
        if role in halves.setdefault(place, {}):
            raise ModelError(f"{checkpoint.name}: '{key}' and '{halves[place][role]}' are the same layer's {role}.")
        halves[place][role] = key
        formats.add(kind)
    if not halves:
        raise ModelError(f"{checkpoint.name}: there is no tensor in it; a LoRA file was expected.")
    layout = layout_of((place.module for place in halves if place.part == "denoiser"), checkpoint.name)
    said = peft_alphas(checkpoint.metadata)
    notes = folded_note(checkpoint.metadata)
    layers = []
    for place, keys in halves.items():
        layer = _layer(checkpoint, place, keys)
        if "alpha" not in keys:
            layer = replace(layer, alpha=said(place.part, place.module, layer.rank))
        if (note := notes.get(file_name(place, "diffusers", layout))) is not None:
            layer = replace(layer, **vars_of(unfold(layer.up, layer.rank, layer.alpha, note)))
        layers.append(layer)
    kind = formats.pop() if len(formats) == 1 else "diffusers"
    return LoraFile(layers=tuple(layers), layout=layout, format=kind, metadata=checkpoint.metadata)
