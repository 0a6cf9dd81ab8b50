"""Adapter files: between LoRA layers on a model and the layouts on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from velatura.adapters.attach import Adapter, LoraValues
from velatura.checkpoints.lora_file import Written, read_lora, write_lora
from velatura.checkpoints.lora_layer import LoraFile, LoraLayer, Part
from velatura.checkpoints.lora_layout import with_layout


def read_adapter(path: Path, dtype: torch.dtype = torch.float32) -> dict[Part, dict[str, LoraValues]]:
    """The layers of a file in any known format, by network and by the module that each sits on there.

    Fused layers come split, their parts sharing one down projection. Raises CheckpointError, ModelError.
    """
    lora = read_lora(path)
    if lora.layout == "bfl":
        lora = with_layout(lora, "diffusers")
    tensors = {id(layer.down): layer.down.to(dtype) for layer in lora.layers}  # what is shared stays shared
    found: dict[Part, dict[str, LoraValues]] = {}
    for layer in lora.layers:
        value = LoraValues(down=tensors[id(layer.down)], up=layer.up.to(dtype), alpha=layer.alpha)
        found.setdefault(layer.part, {})[layer.module] = value
    return found


def write_adapter(
    path: Path,
    adapter: Adapter,
    *,
    split: bool,
    layout: Written,
    dtype: torch.dtype,
    metadata: Mapping[str, str],
) -> None:
    """Write a denoiser's adapter, atomically. `split`: its modules are the parts of layers that kohya files fuse."""
    values = adapter.values()
    rounded = {id(value.down): value.down.to("cpu", dtype) for value in values.values()}
    layers = tuple(
        LoraLayer(
            part="denoiser",
            module=module,
            down=rounded[id(value.down)],
            up=value.up.to("cpu", dtype),
            alpha=value.alpha,
        )
        for module, value in values.items()
    )
    lora = LoraFile(
        layers=layers, layout="diffusers" if split else "unet", format="diffusers", metadata=dict(metadata)
    )
    write_lora(path, lora, layout)
