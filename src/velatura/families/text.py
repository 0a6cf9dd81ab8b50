"""CLIP and T5 text encoders: finding and loading them from any source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from velatura.checkpoints.loading import load_into, skeleton
from velatura.checkpoints.opening import open_checkpoint
from velatura.checkpoints.published import load_config
from velatura.checkpoints.text_keys import (
    CLIP_IGNORED,
    T5_IGNORED,
    clip_config,
    clip_text_encoder,
    t5_config,
    t5_encoder,
)
from velatura.errors import ModelError
from velatura.families.configs import read_json
from velatura.families.locate import locate, part_path, weights_identity
from velatura.families.parts import open_part
from velatura.families.scratch import from_scratch
from velatura.interfaces import ModelFiles

CLIP_ANCHOR = "embeddings.position_embedding.weight"
T5_ANCHOR = "SelfAttention.relative_attention_bias.weight"
CLIP_PREFIX = "text_model"  # before the names in files, as everyone writes them
CLIP_WHAT, T5_WHAT = "CLIP text encoder", "T5 text encoder"


def load_clip(
    path: Path, *, scratch: bool, device: torch.device, dtype: torch.dtype, seed: int
) -> CLIPTextModel:
    """A frozen CLIP text model in eval mode, from a folder or a single file."""
    config = _clip_config(path)
    if scratch:
        return from_scratch(lambda: CLIPTextModel(config), seed, CLIP_WHAT, device)
    module = skeleton(lambda: CLIPTextModel(config))
    checkpoint = open_part(path, "clip-text-encoder")
    inner, key_map = clip_text_encoder(checkpoint, module.state_dict())
    load_into(module, inner, key_map, dtype=dtype, device=device, what=CLIP_WHAT, ignore=CLIP_IGNORED)
    return module.requires_grad_(False).eval()


def load_t5(
    path: Path, *, scratch: bool, device: torch.device, dtype: torch.dtype, seed: int
) -> T5EncoderModel:
    """A frozen T5 encoder in eval mode (so without dropout), from a folder or a single file."""
    config = _t5_config(path)
    if scratch:
        return from_scratch(lambda: T5EncoderModel(config), seed, T5_WHAT, device)
    module = skeleton(lambda: T5EncoderModel(config))
    checkpoint = open_part(path, "t5-encoder")
    inner, key_map = t5_encoder(checkpoint)
    load_into(module, inner, key_map, dtype=dtype, device=device, what=T5_WHAT, ignore=T5_IGNORED)
    return module.requires_grad_(False).eval()


def clip_width(path: Path) -> int:
    """Width of what a CLIP text encoder gives, from its config or header."""
    return int(_clip_config(path).hidden_size)


def t5_width(path: Path) -> int:
    """Width of what a T5 encoder gives, from its config or header."""
    return int(_t5_config(path).d_model)


def encoder_paths(files: ModelFiles, subfolders: Sequence[str]) -> list[Path]:
    """Paths of the text encoders in the order of `subfolders` (CLIP before T5); files are told apart by their keys.

    One folder may hold all of them, and so may one file.
    """
    if not files.text_encoders:
        return [part_path(files, None, name, "text encoder") for name in subfolders]
    patterns = [f"{name}/*" for name in subfolders] if len(files.text_encoders) < len(subfolders) else []
    given = [locate(source, files.base, patterns=patterns) for source in files.text_encoders]
    if len(given) == 1 and all((given[0] / name).is_dir() for name in subfolders):
        return [given[0] / name for name in subfolders]
    if len(given) == 1 and given[0].is_file() and _holds_both(given[0]):
        return given * len(subfolders)
    if len(given) != len(subfolders):
        raise ModelError(
            f"model.text_encoders wants {len(subfolders)} files or folders, received {len(given)}"
        )
    return given if len(given) == 1 else sorted(given, key=_is_t5)


def text_fingerprint(files: ModelFiles, subfolders: Sequence[str]) -> str:
    """Identity of the text encoders' weights, for cache keys."""
    if "text_encoders" in files.from_scratch:
        return ""
    return weights_identity(encoder_paths(files, subfolders))


def _clip_config(path: Path) -> CLIPTextConfig:
    if path.is_dir():
        return CLIPTextConfig(**_folder_config(path, "clip_text_model", CLIP_WHAT))
    shapes = clip_config(open_part(path, "clip-text-encoder"))
    return CLIPTextConfig(**{**load_config("clip-l-text-encoder"), **shapes})


def _t5_config(path: Path) -> T5Config:
    if path.is_dir():
        return T5Config(**_folder_config(path, "t5", T5_WHAT))
    return T5Config(**{**load_config("t5-xxl-encoder"), **t5_config(open_part(path, "t5-encoder"))})


def _folder_config(folder: Path, kind: str, what: str) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    found = config.get("model_type", kind)
    if found != kind:
        raise ModelError(f"{folder} holds a model of type {found}; wanted: the {what}, type {kind}.")
    return config


def _is_t5(path: Path) -> bool:
    if path.is_dir():
        return read_json(path / "config.json").get("model_type") == "t5"
    return any(key.endswith(T5_ANCHOR) for key in open_checkpoint(path))


def _holds_both(path: Path) -> bool:
    return _is_t5(path) and any(key.endswith(CLIP_ANCHOR) for key in open_checkpoint(path))
