"""Saving a model as a folder that diffusers, ComfyUI's diffusers loaders and we read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from velatura.checkpoints.writing import write_safetensors
from velatura.errors import StorageError

COPIED = ("model_index.json", "velatura.json", "scheduler", "tokenizer", "tokenizer_2")


@dataclass(frozen=True, kw_only=True)
class SavedModule:
    """A module and the file name that its library looks for."""

    module: nn.Module
    config: Mapping[str, Any]
    file: str  # "diffusion_pytorch_model" or "model"
    prefix: str = ""  # of the names in the file, where the library's differ from the module's


def save_folder(folder: Path, modules: Mapping[str, SavedModule], source: Path | None, dtype: torch.dtype) -> None:
    """Write `folder/<name>/` for each module, and copy tokenizers, scheduler and index from `source`.

    The folder appears complete or not at all; an earlier one of that name is replaced.
    """
    staged = folder.with_name(f".{folder.name}.staged")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        for name, saved in modules.items():
            (staged / name).mkdir(parents=True)
            (staged / name / "config.json").write_text(json.dumps(dict(saved.config), indent=2, sort_keys=True) + "\n")
            tensors = {
                saved.prefix + key: value.detach().to("cpu", dtype if value.is_floating_point() else None)
                for key, value in saved.module.state_dict().items()
            }
            write_safetensors(staged / name / f"{saved.file}.safetensors", _untied(tensors), {"format": "pt"})
        _copy_rest(source, staged)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(staged, folder)
    except OSError as error:
        raise StorageError(f"cannot write the model folder {folder}: {error.strerror or error}") from None


def _copy_rest(source: Path | None, staged: Path) -> None:
    if source is None or not source.is_dir():
        return
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, staged / name)
        elif (source / name).is_file():
            shutil.copy2(source / name, staged / name)


def _untied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """T5 ties `encoder.embed_tokens` to `shared`; files hold it once."""
    if "shared.weight" in tensors:
        tensors.pop("encoder.embed_tokens.weight", None)
    return tensors
