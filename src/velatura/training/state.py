"""The exact state of a run on disk: staged, checksummed, renamed into place, so a kill never harms the last one.

Random numbers are counted, not stored (see `draws`), and the loader's position is the step: what is left is values,
averages, the optimizer's moments and the loss scaler.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from velatura.checkpoints.reader import TensorFile
from velatura.checkpoints.writing import sync_folder, write_safetensors
from velatura.errors import CheckpointError, RecipeError
from velatura.events import Events

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class RunState:
    """All that a run needs to go on as if it had never stopped."""

    step: int
    recipe_hash: str
    values: Mapping[str, Tensor]
    average: Mapping[str, Tensor] | None
    optimizer: Mapping[str, Tensor]  # "<parameter>/<moment>"
    scaler: Mapping[str, Any]
    skipped: int = 0


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimizer's state under the parameters' names."""
    return {
        f"{name}/{moment}": value
        for name, parameter in parameters.items()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }


def set_optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`."""
    for key, value in tensors.items():
        name, _, moment = key.rpartition("/")
        parameter = parameters[name]
        home = value.device if moment == "step" else parameter.device
        optimizer.state[parameter][moment] = value.to(home)


def save_state(folder: Path, state: RunState, *, keep: int) -> Path:
    """Write `folder/<step>` completely or not at all, then remove all but the newest `keep` states."""
    final = folder / f"{state.step:06d}"
    staged = folder / f".{state.step:06d}.staged"
    shutil.rmtree(staged, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    groups = {"values": state.values, "average": state.average or {}, "optimizer": state.optimizer}
    staged.mkdir()
    for name, tensors in groups.items():
        write_safetensors(staged / f"{name}.safetensors", {k: v.cpu() for k, v in tensors.items()}, {})
    facts = {
        "step": state.step,
        "recipe": state.recipe_hash,
        "scaler": dict(state.scaler),
        "skipped": state.skipped,
    }
    facts["checksums"] = {f"{name}.safetensors": _checksum(staged / f"{name}.safetensors") for name in groups}
    _write_synced(staged / MANIFEST, json.dumps(facts, indent=1))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(staged, final)
    sync_folder(folder)
    for old in _steps(folder)[:-keep]:
        shutil.rmtree(folder / f"{old:06d}", ignore_errors=True)
    return final


def load_latest(folder: Path, events: Events) -> RunState | None:
    """The newest state that is whole; damaged ones are skipped with a warning. None when there is no state."""
    for step in reversed(_steps(folder)):
        try:
            return _load(folder / f"{step:06d}")
        except (CheckpointError, OSError, ValueError, KeyError) as error:
            events.warn(f"state {step} is damaged and is skipped: {error}")
    return None


def check_recipe(state: RunState, recipe_hash: str) -> None:
    """Refuse to go on with a recipe that would have trained otherwise."""
    if state.recipe_hash != recipe_hash:
        raise RecipeError(
            "the recipe differs from the one this run was started with, so going on would not be the same run. "
            "Only previews, output, validation, and in training the steps, the device and save_every may change. "
            "Restore the recipe (the run's recipe.toml holds it), or start a run with another name."
        )


def _load(path: Path) -> RunState:
    facts = json.loads((path / MANIFEST).read_text())
    for name, checksum in facts["checksums"].items():
        if _checksum(path / name) != checksum:
            raise CheckpointError(f"{path / name} does not match its checksum")
    groups = {name: _read(path / f"{name}.safetensors") for name in ("values", "average", "optimizer")}
    return RunState(
        step=facts["step"],
        recipe_hash=facts["recipe"],
        values=groups["values"],
        average=groups["average"] or None,
        optimizer=groups["optimizer"],
        scaler=facts["scaler"],
        skipped=facts["skipped"],
    )


def _read(path: Path) -> dict[str, Tensor]:
    with TensorFile(path) as file:
        return {key: file.read(key) for key in file}


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit() and entry.is_dir())


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _write_synced(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
