"""Reading LoRA files of every common format, converting between them, and writing them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from velatura.checkpoints.checkpoint import Checkpoint
from velatura.checkpoints.detect import contents, expect
from velatura.checkpoints.finite import check_fits, narrowed
from velatura.checkpoints.hashes import sshs_hashes
from velatura.checkpoints.lora_alpha import NOTE, PeftAlphas, fold, folding_note, read_note, unfold
from velatura.checkpoints.lora_layer import Layout, LoraFile, LoraFormat, LoraLayer, alpha_of
from velatura.checkpoints.lora_layout import widened, with_layout
from velatura.checkpoints.lora_names import Place, Role, file_stem, is_adapter_key, layout_of, parse_key
from velatura.checkpoints.opening import open_checkpoint
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import ModelError

Written = Literal["kohya", "diffusers", "comfy"]
# key of the layout of a diffusers file of text encoders alone, whose names do not tell SD's from FLUX's
LAYOUT = "velatura.layout"
_ENDINGS: Mapping[Written, tuple[str, str]] = {
    "kohya": (".lora_down.weight", ".lora_up.weight"),
    "diffusers": (".lora_A.weight", ".lora_B.weight"),
    "comfy": (".lora_down.weight", ".lora_up.weight"),
}


def read_lora(source: Path | str | Checkpoint) -> LoraFile:
    """Read a LoRA of FLUX or SD 1.x from kohya, diffusers, PEFT, ai-toolkit, OneTrainer, ComfyUI, DiffSynth files.

    Raises ModelError for a file that is no LoRA, saying what it looks like; for a key that is not understood, a layer
    that lacks a half, and other kinds of adapter (DoRA, LoHa, LoKr, …), naming the key: nothing is left out in silence.
    """
    if not isinstance(source, Checkpoint):
        with open_checkpoint(source) as checkpoint:
            return read_lora(checkpoint)
    checkpoint = source
    if len(checkpoint) and not _may_be_adapter(checkpoint):
        expect(checkpoint, "lora")
    keys: dict[Place, dict[Role, str]] = {}
    formats: Counter[LoraFormat] = Counter()
    for key in checkpoint:
        place, role, kind = parse_key(key, checkpoint.name)
        known = keys.setdefault(place, {})
        if role in known:
            raise ModelError(
                f"{checkpoint.name}: '{key}' and '{known[role]}' are the same half of one layer."
            )
        known[role] = key
        formats[kind] += 1
    if not keys:
        raise ModelError(f"{checkpoint.name}: it holds no tensor, a LoRA was expected.")
    modules = [place.module for place in keys if place.part == "denoiser"]
    layout = layout_of(modules, checkpoint.name) or _text_only(checkpoint)
    said, notes = PeftAlphas(checkpoint), read_note(checkpoint.metadata)
    layers = []
    for place, known in keys.items():
        layer = _layer(checkpoint, place, known, said, layout)
        layers.append(unfold(layer, notes.get(file_stem(place, "diffusers", layout))))
    metadata = {key: value for key, value in checkpoint.metadata.items() if key not in (NOTE, LAYOUT)}
    return LoraFile(
        layers=tuple(layers), layout=layout, format=formats.most_common(1)[0][0], metadata=metadata
    )


def _may_be_adapter(checkpoint: Checkpoint) -> bool:
    """Not so for what is recognised as a network, nor for a file of which no key is an adapter's."""
    found = contents(checkpoint)
    if found:
        return found[0].kind == "lora"
    return any(is_adapter_key(key) for key in checkpoint)


def _text_only(checkpoint: Checkpoint) -> Layout:
    """The layout of a file without denoiser layers: kohya names SD's only text encoder `te`, FLUX's first `te1`."""
    said = checkpoint.metadata.get(LAYOUT) == "unet"
    return "unet" if said or any(key.startswith("lora_te_") for key in checkpoint) else "bfl"


def _layer(
    checkpoint: Checkpoint, place: Place, keys: Mapping[Role, str], said: PeftAlphas, layout: Layout
) -> LoraLayer:
    needed: tuple[tuple[Role, Role], ...] = (("down", "up"), ("up", "down"), ("down", "alpha"))
    for role, other in needed:
        if role not in keys and other in keys:
            raise ModelError(
                f"{checkpoint.name}: '{keys[other]}' is there, the {role} half of its layer is not."
            )
    down, up = checkpoint.read(keys["down"]), checkpoint.read(keys["up"])
    rank = down.shape[0] if down.dim() else 0
    stored = None
    if "alpha" in keys:
        if math.prod(checkpoint.shape(keys["alpha"])) != 1:
            raise ModelError(
                f"{checkpoint.name}: '{keys['alpha']}' has shape {checkpoint.shape(keys['alpha'])}, expected a number."
            )
        stored = checkpoint.read(keys["alpha"])
        value = alpha_of(stored, rank)
        if stored.dtype == torch.float32 and not stored.dim() and stored.item():
            stored = None  # `value` says it all
    else:
        prefix = file_stem(Place(part=place.part, module=""), "diffusers", layout).rstrip(".")
        value = said.of(prefix, place.module, rank)
    try:
        return LoraLayer(
            part=place.part, module=place.module, down=down, up=up, alpha=value, stored_alpha=stored
        )
    except ModelError as error:
        raise ModelError(f"{checkpoint.name}: {error}") from error


def convert(lora: LoraFile, to: Written) -> LoraFile:
    """The adapter as `write_lora` would write it in another format, every update unchanged.

    kohya and ComfyUI have FLUX's fused layers, diffusers the split ones (`lora_layout`). 8-bit values become bf16. The
    hashes in the metadata are dropped, `write_lora` makes new ones. Raises ModelError.
    """
    layout: Layout = lora.layout if lora.layout == "unet" else ("diffusers" if to == "diffusers" else "bfl")
    if to == "comfy" and lora.layout == "unet":
        raise ModelError(
            "ComfyUI has no names of its own for SD LoRAs that other tools read; it loads kohya files."
        )
    metadata = {key: value for key, value in lora.metadata.items() if not key.startswith("sshs_")}
    metadata.pop("lora_adapter_metadata", None)
    return replace(with_layout(widened(lora), layout), format=to, metadata=metadata)


def lora_tensors(
    lora: LoraFile, to: Written, *, dtype: torch.dtype | None = None
) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file in a format, and the note of folded alphas for its metadata (`lora_alpha`).

    dtype: of down and up; None keeps theirs. Raises NumericError for values that are not finite, or not in `dtype`.
    """
    down_ending, up_ending = _ENDINGS[to]
    stems = {
        file_stem(Place(part=layer.part, module=layer.module), to, lora.layout): layer
        for layer in lora.layers
    }
    if len(stems) != len(lora.layers):
        raise ModelError("Two layers of this LoRA have one name in the file.")
    if dtype is not None:
        stems = {
            stem: replace(
                layer,
                down=narrowed(layer.down, dtype, stem + down_ending),
                up=narrowed(layer.up, dtype, stem + up_ending),
            )
            for stem, layer in stems.items()
        }
    tensors: dict[str, Tensor] = {}
    for stem, layer in stems.items():
        written = fold(layer) if to == "diffusers" else layer
        tensors[stem + down_ending] = written.down
        tensors[stem + up_ending] = written.up
        if to != "diffusers":
            tensors[f"{stem}.alpha"] = written.written_alpha()
    for name, tensor in tensors.items():
        check_fits(tensor, None, name)
    return tensors, folding_note(stems) if to == "diffusers" else ""


def write_lora(
    path: Path | str, lora: LoraFile, to: Written, *, dtype: torch.dtype | None = None
) -> dict[str, str]:
    """Convert and write, atomically; returns the metadata as written.

    Where that has `ss_` keys, the `sshs_` hashes are added. Raises ModelError for what the format cannot hold,
    NumericError for values that are not finite, or not in `dtype`, StorageError when the disk refuses.
    """
    lora = convert(lora, to)
    tensors, note = lora_tensors(lora, to, dtype=dtype)
    metadata = dict(lora.metadata) | ({NOTE: note} if note else {})
    if to == "diffusers" and lora.layout == "unet" and not lora.of("denoiser"):
        metadata[LAYOUT] = lora.layout
    if any(key.startswith("ss_") for key in metadata):
        metadata |= sshs_hashes(tensors, metadata)
    write_safetensors(path, tensors, metadata)
    return metadata
