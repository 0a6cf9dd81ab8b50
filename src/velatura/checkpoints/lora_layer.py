"""LoRA layers in memory, in one form whatever file they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

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
    one tensor. Raises ModelError when the two do not fit together.
    """

    part: Part
    module: str
    down: Tensor
    up: Tensor
    alpha: float

    def __post_init__(self) -> None:
        shapes = tuple(self.down.shape), tuple(self.up.shape)
        plain = self.down.dim() == self.up.dim() == 2 or self.down.dim() == self.up.dim() == 4
        if not plain or self.down.shape[0] != self.up.shape[1] or self.down.shape[0] == 0:
            raise ModelError(
                f"LoRA layer '{self.module}': down {shapes[0]} and up {shapes[1]} do not fit together."
            )
        if not abs(self.alpha) < float("inf"):
            raise ModelError(f"LoRA layer '{self.module}': alpha is {self.alpha}, expected a finite number.")

    @property
    def rank(self) -> int:
        """Rank r of the update."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / r."""
        return self.alpha / self.rank

    def delta(self) -> Tensor:
        """The update of the weight, float32 `[out, in]` or `[out, in, kh, kw]`."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return (product * self.scale).reshape(self.up.shape[0], *self.down.shape[1:])


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
