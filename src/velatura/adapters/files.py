"""Adapter files: between LoRA layers on a model and the layouts on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from velatura.adapters.attach import Adapter, LoraValues
from velatura.checkpoints.finite import narrowed
from velatura.checkpoints.lora_file import Written, read_lora, write_lora
from velatura.checkpoints.lora_layer import LoraFile, LoraLayer, Part
from velatura.checkpoints.lora_layout import widened, with_layout


def read_adapter(path: Path, dtype: torch.dtype = torch.float32) -> dict[Part, dict[str, LoraValues]]:
    """The layers of a file in any known format, by network and by the module that each sits on there.

    Fused layers come split, their parts sharing one down projection. Raises CheckpointError, ModelError; NumericError
    for values that are not finite, or not in `dtype`.
    """
    lora = widened(read_lora(path))
    if lora.layout == "bfl":
        lora = with_layout(lora, "diffusers")
    downs = {id(layer.down): layer for layer in lora.layers}  # what is shared stays shared
    tensors = {
        key: narrowed(layer.down, dtype, f"{path}: {layer.module}, down") for key, layer in downs.items()
    }
    found: dict[Part, dict[str, LoraValues]] = {}
    for layer in lora.layers:
        up = narrowed(layer.up, dtype, f"{path}: {layer.module}, up")
        value = LoraValues(down=tensors[id(layer.down)], up=up, alpha=layer.alpha)
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
    """Write a denoiser's adapter, atomically. `split`: its modules are the parts of layers that kohya files fuse.

    Raises NumericError, before anything is written, for values that are not finite, or not in `dtype`; StorageError.
    """
    values = adapter.values()
    rounded = {
        id(value.down): narrowed(value.down, dtype, f"{module}, down").cpu()
        for module, value in values.items()
    }
    layers = tuple(
        LoraLayer(
            part="denoiser",
            module=module,
            down=rounded[id(value.down)],
            up=narrowed(value.up, dtype, f"{module}, up").cpu(),
            alpha=value.alpha,
        )
        for module, value in values.items()
    )
    lora = LoraFile(
        layers=layers, layout="diffusers" if split else "unet", format="diffusers", metadata=dict(metadata)
    )
    write_lora(path, lora, layout)
