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
from torch import Tensor, nn

from velatura.checkpoints.finite import check_fits
from velatura.checkpoints.keymap import KeyMap, Rule
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import StorageError


@dataclass(frozen=True, kw_only=True)
class SavedModule:
    """A module and the file name that its library looks for."""

    module: nn.Module
    config: Mapping[str, Any]
    file: str  # "diffusion_pytorch_model" or "model"
    prefix: str = ""  # of the names in the file, where they differ from the module's: "text_model"


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """What goes into a model's folder."""

    modules: Mapping[str, SavedModule]  # by sub-folder
    documents: Mapping[str, Mapping[str, Any]]  # JSON by path: the index, the scheduler
    folders: Mapping[str, Path]  # copied as they are: tokenizers


def save_folder(folder: Path, model: SavedModel, dtype: torch.dtype | None) -> None:
    """Write the model. The folder appears complete or not at all; an earlier one of that name is replaced.

    Raises StorageError; NumericError, before anything is written, for weights that `dtype` cannot hold.
    """
    for name, saved in model.modules.items():
        for key, tensor in saved.module.state_dict().items():
            check_fits(tensor, dtype, f"{name}/{key}")
    staged, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("staged", "old"))
    shutil.rmtree(staged, ignore_errors=True)
    try:
        for name, saved in model.modules.items():
            _write_module(staged / name, saved, dtype)
        for name, document in model.documents.items():
            _write_json(staged / name, document)
        for name, source in model.folders.items():
            shutil.copytree(source, staged / name)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(staged, folder)
    except OSError as error:
        raise StorageError(f"cannot write the model folder {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _write_module(folder: Path, saved: SavedModule, dtype: torch.dtype | None) -> None:
    _write_json(folder / "config.json", saved.config)
    key_map = KeyMap([Rule(saved.prefix, "")])
    tensors = key_map.to_file(_untied(saved.module.state_dict()), dtype=dtype)
    write_safetensors(folder / f"{saved.file}.safetensors", tensors, {"format": "pt"})


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(document), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _untied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """T5 ties `encoder.embed_tokens` to `shared`; files hold it once."""
    if "shared.weight" in tensors:
        tensors.pop("encoder.embed_tokens.weight", None)
    return tensors
