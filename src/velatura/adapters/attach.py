"""Putting LoRA layers on a denoiser, taking them off, merging them into the weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from velatura.adapters.lora import Down, LoraConv, LoraLinear, fresh_down
from velatura.checkpoints.finite import narrowed
from velatura.draws import generator_for
from velatura.errors import CheckpointError, RecipeError
from velatura.interfaces import Target


@dataclass(frozen=True, kw_only=True)
class LoraValues:
    """The values of one layer: down `[r, in]`, up `[out, r]`, alpha. Layers that share `down` hold the same tensor.

    On a convolution down is `[r, in, kh, kw]` and up `[out, r, 1, 1]`.
    """

    down: Tensor
    up: Tensor
    alpha: float


class Adapter:
    """A set of LoRA layers on one module, addressed by the paths of the layers they sit on."""

    def __init__(self, host: nn.Module, layers: dict[str, LoraLinear]) -> None:
        self.host = host
        self.layers = layers

    def parameters(self) -> dict[str, nn.Parameter]:
        """Trained values by stable names; a shared down projection appears once, under its first layer."""
        found: dict[str, nn.Parameter] = {}
        seen: set[int] = set()
        for path, layer in self.layers.items():
            if id(layer.down.weight) not in seen:
                seen.add(id(layer.down.weight))
                found[f"{path}.down"] = layer.down.weight
            found[f"{path}.up"] = layer.up
        return found

    def set_strength(self, strength: float | Tensor) -> None:
        """Of all layers: a number, `[B]` or `[B, L]`. Raises RecipeError for a number that is not finite."""
        if not isinstance(strength, Tensor):
            check_strength(strength, "an adapter")
        for layer in self.layers.values():
            layer.strength = strength

    def move(self, device: torch.device) -> None:
        """Move the layers' own values; the layers that they sit on stay where they are."""
        for parameter in self.parameters().values():
            parameter.data = parameter.data.to(device)

    def values(self) -> dict[str, LoraValues]:
        """What a file needs, by layer path; a shared down projection is one tensor here too."""
        downs = {id(layer.down): layer.down.weight.detach() for layer in self.layers.values()}
        return {
            path: LoraValues(down=downs[id(layer.down)], up=layer.up.detach(), alpha=layer.alpha)
            for path, layer in self.layers.items()
        }

    def take_off(self) -> None:
        """Put the bare layers back. Adapters come off in the reverse order in which they were put on."""
        self._check_on_top()
        for path, layer in self.layers.items():
            _replace(self.host, path, layer.base)

    @torch.no_grad()
    def merge(self, strength: float = 1.0) -> None:
        """Add strength * delta to the base weights (computed in float32, rounded once) and take the adapter off.

        Raises RecipeError for a strength that is not finite; NumericError for sums that the weights' dtype cannot hold:
        some layers are merged by then.
        """
        check_strength(strength, "an adapter")
        self._check_on_top()
        for path, layer in self.layers.items():
            base: Tensor = layer.base.weight  # type: ignore[assignment]
            if base.itemsize < 2:
                raise CheckpointError(
                    "a LoRA cannot be merged into weights of 8 bits or fewer; load the model in full"
                )
            base.copy_(narrowed(base.float() + strength * layer.delta().to(base.device), base.dtype, path))
        self.take_off()

    def _check_on_top(self) -> None:
        """Before anything is changed: is every layer where it was put, with nothing over it?"""
        for path, layer in self.layers.items():
            if self.host.get_submodule(path) is not layer:
                raise RuntimeError(f"'{path}' carries another adapter; take adapters off in reverse order")


def put_on_fresh(
    host: nn.Module, targets: Sequence[Target], *, rank: int, alpha: float, seed: int, share_down: bool = True
) -> Adapter:
    """New LoRA layers in float32: A random by `seed` and the layer's name, B zero, so the model is unchanged."""
    values: dict[str, LoraValues] = {}
    downs: dict[str, Tensor] = {}
    for target in targets:
        base = host.get_submodule(target.module)
        out_features, in_features = _linear_shape(base, target.module)
        own = min(rank, in_features, out_features)
        key = target.shares if share_down and target.shares else target.module
        if key not in downs:
            generator = generator_for(seed, f"lora/{key}")
            downs[key] = fresh_down(own, in_features, generator)
        down = downs[key]
        values[target.module] = LoraValues(
            down=down, up=torch.zeros(out_features, down.shape[0]), alpha=alpha * down.shape[0] / rank
        )
    return put_on(host, values)


def put_on(host: nn.Module, values: Mapping[str, LoraValues]) -> Adapter:
    """LoRA layers with given values (kept in their dtype, moved to the host's device).

    Raises CheckpointError where a layer does not exist or a shape does not fit.
    """
    readers = Counter(id(value.down) for value in values.values())
    downs: dict[int, Down] = {}
    layers: dict[str, LoraLinear] = {}
    for path, value in values.items():
        base = _find(host, path)
        weight = _weight(base, path)
        down, up = _fitted(path, weight, value)
        key = id(value.down)
        if key not in downs:
            downs[key] = Down(down.to(weight.device), readers=readers[key])
        kind = LoraLinear if weight.ndim == 2 else LoraConv
        layers[path] = kind(base, downs[key], up.to(weight.device), alpha=value.alpha)
    for path, layer in layers.items():
        _replace(host, path, layer)
    return Adapter(host, layers)


def check_strength(strength: float, of: object) -> None:
    """Raise RecipeError for a strength that is NaN or infinite."""
    if not math.isfinite(strength):
        raise RecipeError(
            f"received {strength} as the strength of {of}; allowed: a finite number, such as 0.8"
        )


def _find(host: nn.Module, path: str) -> nn.Module:
    try:
        return host.get_submodule(path)
    except AttributeError:
        raise CheckpointError(
            f"the LoRA has a layer for '{path}', which {type(host).__name__} does not have: "
            "it was made for another model family or size"
        ) from None


def _weight(base: nn.Module, path: str) -> Tensor:
    weight = getattr(base, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim not in (2, 4) or getattr(base, "groups", 1) != 1:
        raise CheckpointError(
            f"'{path}' is a {type(base).__name__}; LoRA layers sit on linear layers and plain convolutions"
        )
    return weight


def _linear_shape(base: nn.Module, path: str) -> tuple[int, int]:
    weight = _weight(base, path)
    if weight.ndim != 2:
        raise CheckpointError(
            f"'{path}' is a {type(base).__name__}; new LoRA layers sit on linear layers only"
        )
    return weight.shape[0], weight.shape[1]


def _fitted(path: str, weight: Tensor, value: LoraValues) -> tuple[Tensor, Tensor]:
    """down and up in the form of the layer: tools disagree on 1x1 convolutions, which are linear layers."""
    down, up = value.down, value.up
    if down.shape[0] != up.shape[1]:
        raise CheckpointError(
            f"LoRA layer '{path}': down has rank {down.shape[0]} and up has rank {up.shape[1]}"
        )
    if down.shape[1:].numel() == weight.shape[1]:
        down = down.reshape(down.shape[0], weight.shape[1], *(1,) * (weight.ndim - 2))
    up = up.reshape(up.shape[0], up.shape[1], *(1,) * (weight.ndim - 2))
    if down.shape[1:] != weight.shape[1:] or up.shape[0] != weight.shape[0]:
        raise CheckpointError(
            f"LoRA layer '{path}' maps {_size(down)} -> {up.shape[0]} features, "
            f"the model's layer {_size(weight)} -> {weight.shape[0]}: it was made for another model"
        )
    return down, up


def _size(weight: Tensor) -> str:
    """What a row reads: `320`, or `320x3x3`."""
    return "x".join(str(edge) for edge in weight.shape[1:])


def _replace(host: nn.Module, path: str, new: nn.Module) -> None:
    parent_path, _, name = path.rpartition(".")
    host.get_submodule(parent_path)._modules[name] = new
