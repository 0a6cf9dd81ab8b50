"""LoRA layers in memory, in one form whatever file they came from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from velatura.errors import ModelError

Part = Literal["denoiser", "clip_l", "t5"]
Layout = Literal["bfl", "diffusers", "unet"]  # FLUX fused, FLUX split, the UNet of Stable Diffusion
LoraFormat = Literal["kohya", "diffusers", "comfy", "peft", "onetrainer", "diffsynth"]


@dataclass(frozen=True, kw_only=True)
class LoraLayer:
    """One adapted layer: delta W = (alpha / r) up @ down.

    module: dotted path within its part; CLIP's begin with `text_model.`. down `[r, in]`, up `[out, r]`; for a
    convolution down is `[r, in, kh, kw]` and up `[out, r, 1, 1]`. Layers that share a down projection hold
    one tensor. stored_alpha is what the file says of alpha where that is not simply its value in float32: another
    dtype, a list of one, or 0, which stands for the rank. Raises ModelError when down and up do not fit together.
    """

    part: Part
    module: str
    down: Tensor
    up: Tensor
    alpha: float
    stored_alpha: Tensor | None = None

    def __post_init__(self) -> None:
        shapes = tuple(self.down.shape), tuple(self.up.shape)
        plain = self.down.dim() == self.up.dim() in (2, 4) and all(edge == 1 for edge in self.up.shape[2:])
        if not plain or self.down.shape[0] != self.up.shape[1] or not (self.down.numel() and self.up.numel()):
            ranks = f": their ranks are {shapes[0][0]} and {shapes[1][1]}" if plain else ""
            raise ModelError(
                f"LoRA layer '{self.module}': down {shapes[0]} and up {shapes[1]} do not fit together{ranks}."
            )
        if not (self.down.is_floating_point() and self.up.is_floating_point()):
            kinds = f"{self.down.dtype} and {self.up.dtype}"
            raise ModelError(
                f"LoRA layer '{self.module}': its values are {kinds}, expected floating numbers."
            )
        if not 0 < abs(self.alpha) < math.inf:
            raise ModelError(
                f"LoRA layer '{self.module}': alpha is {self.alpha}, expected a finite number other than 0."
            )

    @property
    def rank(self) -> int:
        """Rank r of the update."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / r."""
        return self.alpha / self.rank

    def written_alpha(self) -> Tensor:
        """The tensor of a file that has one for alpha: the stored one as long as it means this layer's alpha."""
        stored = self.stored_alpha
        if stored is not None and math.isclose(alpha_of(stored, self.rank), self.alpha, rel_tol=1e-9):
            return stored
        return torch.tensor(self.alpha, dtype=torch.float32)

    def delta(self) -> Tensor:
        """The update of the weight, float32 `[out, in]` or `[out, in, kh, kw]`."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return (product * self.scale).reshape(self.up.shape[0], *self.down.shape[1:])


def alpha_of(stored: Tensor, rank: int) -> float:
    """The alpha that a file's tensor of one value means: 0 stands for the rank, as sd-scripts has it."""
    return stored.double().item() or float(rank)


def bits(values: Tensor) -> Tensor:
    """The values as integers of their size: tells 0 from -0."""
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.contiguous().view(kinds[values.itemsize])


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """The layers of one adapter, with how the denoiser's modules are named in it and what it says about itself."""

    layers: tuple[LoraLayer, ...]
    layout: Layout
    format: LoraFormat
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The different ranks, ascending."""
        return tuple(sorted({layer.rank for layer in self.layers}))

    def of(self, part: Part) -> dict[str, LoraLayer]:
        """The layers on one network, by module."""
        return {layer.module: layer for layer in self.layers if layer.part == part}
