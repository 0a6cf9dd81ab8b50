"""Our layers and peft's, with the same A and B on the same model: the same outputs and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from velatura.adapters.attach import Adapter, put_on_fresh
from velatura.adapters.targets import choose
from velatura.interfaces import Family, Parts

from ..tiny import load
from .test_attach import filled, output

peft = pytest.importorskip("peft")
RANK, ALPHA = 4, 6.0


def ours(family: Family, parts: Parts) -> Adapter:
    assert parts.denoiser is not None
    targets = choose(family.targets(parts.denoiser), "sd-scripts").targets
    return filled(put_on_fresh(parts.denoiser, targets, rank=RANK, alpha=ALPHA, seed=1))


def theirs(parts: Parts, adapter: Adapter) -> dict[str, Any]:
    """peft's layers by path, holding the same values; each has an A of its own."""
    assert parts.denoiser is not None
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(adapter.layers))
    peft.inject_adapter_in_model(config, parts.denoiser)
    layers = {path: parts.denoiser.get_submodule(path) for path in adapter.layers}
    for path, layer in layers.items():
        layer.lora_A["default"].weight.data.copy_(adapter.layers[path].down.weight)  # type: ignore[union-attr, index]
        layer.lora_B["default"].weight.data.copy_(adapter.layers[path].up)  # type: ignore[union-attr, index]
    return layers


def close(found: Tensor | None, expected: Tensor | None) -> None:
    """To 1e-5 of the largest value."""
    assert found is not None
    assert expected is not None
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_outputs_and_gradients_are_those_of_peft(tiny_model: Path) -> None:
    (family, mine), (_, other) = load(tiny_model), load(tiny_model)
    adapter = ours(family, mine)
    layers = theirs(other, adapter)
    outputs = [output(family, parts) for parts in (mine, other)]
    close(*outputs)
    for out in outputs:
        out.square().sum().backward()

    downs: dict[int, Tensor] = {}  # peft's A gradients, added up over the layers that share an A with us
    for path, layer in layers.items():
        close(adapter.layers[path].up.grad, layer.lora_B["default"].weight.grad)
        key = id(adapter.layers[path].down)
        downs[key] = downs.get(key, torch.zeros(())) + layer.lora_A["default"].weight.grad
    shared = {id(layer.down): layer.down for layer in adapter.layers.values()}
    assert len(shared) == 10 + 2 * 3  # inputs of one double and two single blocks
    for key, down in shared.items():
        close(down.weight.grad, downs[key])


def test_delta_is_pefts_delta_weight(tiny_model: Path) -> None:
    (family, mine), (_, other) = load(tiny_model), load(tiny_model)
    adapter = ours(family, mine)
    for path, layer in theirs(other, adapter).items():
        close(adapter.layers[path].delta(), layer.get_delta_weight("default"))
