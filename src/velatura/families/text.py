"""CLIP and T5 text encoders and their tokenizers: finding and loading them from any source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from velatura.checkpoints.checkpoint import Checkpoint
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
from velatura.families.locate import locate, part_path, read_json, weights_identity
from velatura.families.scratch import from_scratch
from velatura.interfaces import ModelFiles

CLIP_WHAT, T5_WHAT = "CLIP text encoder", "T5 text encoder"
TOKENIZERS: dict[str, Any] = {"clip": CLIPTokenizer, "t5": T5TokenizerFast}


def load_clip(path: Path, *, scratch: bool, device: torch.device, dtype: torch.dtype, seed: int) -> CLIPTextModel:
    """A frozen CLIP text model in eval mode, from a folder or a single file."""
    config = CLIPTextConfig(**_config(path, "clip-l-text-encoder", clip_config))
    if scratch:
        return from_scratch(lambda: CLIPTextModel(config), seed, CLIP_WHAT, device)
    module = skeleton(lambda: CLIPTextModel(config))
    checkpoint = open_checkpoint(path)
    inner, key_map = clip_text_encoder(checkpoint, module.state_dict())
    load_into(module, inner, key_map, dtype=dtype, device=device, what=CLIP_WHAT, ignore=CLIP_IGNORED)
    return module.requires_grad_(False).eval()


def load_t5(path: Path, *, scratch: bool, device: torch.device, dtype: torch.dtype, seed: int) -> T5EncoderModel:
    """A frozen T5 encoder in eval mode (so without dropout), from a folder or a single file."""
    config = T5Config(**_config(path, "t5-xxl-encoder", t5_config))
    if scratch:
        return from_scratch(lambda: T5EncoderModel(config), seed, T5_WHAT, device)
    module = skeleton(lambda: T5EncoderModel(config))
    checkpoint = open_checkpoint(path)
    inner, key_map = t5_encoder(checkpoint)
    load_into(module, inner, key_map, dtype=dtype, device=device, what=T5_WHAT, ignore=T5_IGNORED)
    return module.requires_grad_(False).eval()


def encoder_paths(files: ModelFiles, subfolders: Sequence[str]) -> list[Path]:
    """Paths of the text encoders in the order of `subfolders`; single files are told apart by their keys."""
    if not files.text_encoders:
        return [part_path(files, None, name, "text encoder") for name in subfolders]
    given = [locate(source, files.base) for source in files.text_encoders]
    if len(given) == 1 and all((given[0] / name).is_dir() for name in subfolders):
        return [given[0] / name for name in subfolders]
    if len(given) != len(subfolders):
        raise ModelError(f"model.text_encoders wants {len(subfolders)} files or folders, received {len(given)}")
    return given if len(given) == 1 else sorted(given, key=_is_t5)


def text_fingerprint(files: ModelFiles, subfolders: Sequence[str]) -> str:
    """Identity of the text encoders' weights, for cache keys."""
    if "text_encoders" in files.from_scratch:
        return ""
    return weights_identity(encoder_paths(files, subfolders))


def load_tokenizers(files: ModelFiles, kinds: Sequence[str], subfolders: Sequence[str]) -> tuple[Any, ...]:
    """Tokenizers from `model.tokenizers` (folder or hub id), else from `model.model`. Raises ModelError."""
    source = files.tokenizers or files.model
    if source is None:
        raise ModelError(
            "tokenizers are needed and single files do not hold them. Set model.tokenizers to a folder with "
            f"{' and '.join(subfolders)}, or to a hub id such as 'black-forest-labs/FLUX.1-dev'."
        )
    root = locate(source, files.base, patterns=[f"{name}/*" for name in subfolders])
    return tuple(_tokenizer(kind, root, name) for kind, name in zip(kinds, subfolders, strict=True))


def check_vocabulary(tokenizer: Any, module: nn.Module, what: str) -> None:
    """A tokenizer that knows other pieces than its encoder gives nonsense silently; refuse it."""
    known = int(module.config.vocab_size)  # type: ignore[union-attr, arg-type]
    if len(tokenizer) > known or len(tokenizer) < known * 0.9:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} pieces and the {what} an embedding of {known}: they do not belong "
            "together, or the tokenizer's files are incomplete. Check model.tokenizers."
        )


def _tokenizer(kind: str, root: Path, subfolder: str) -> Any:
    folder = root / subfolder if (root / subfolder).is_dir() else root
    needed = {"clip": ("tokenizer.json", "vocab.json"), "t5": ("tokenizer.json", "spiece.model")}[kind]
    if not any((folder / name).is_file() for name in needed):
        raise ModelError(f"{folder} holds no {kind} tokenizer ({' or '.join(needed)}). Check model.tokenizers.")
    return TOKENIZERS[kind].from_pretrained(folder, local_files_only=True)


def _config(path: Path, published: str, from_shapes: Any) -> dict[str, Any]:
    if path.is_dir():
        return read_json(path / "config.json")
    checkpoint = open_checkpoint(path)
    return {**load_config(published), **from_shapes(checkpoint)}


def _is_t5(path: Path) -> bool:
    checkpoint = open_checkpoint(path)
    return _holds_t5(checkpoint)


def _holds_t5(checkpoint: Checkpoint) -> bool:
    return any("SelfAttention.relative_attention_bias" in key for key in checkpoint.keys())
