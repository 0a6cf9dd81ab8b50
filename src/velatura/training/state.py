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
from velatura.errors import CheckpointError, RecipeError, StorageError
from velatura.events import Events
from velatura.training.optimizer import FUSED

MANIFEST = "manifest.json"
FACTS = {"step", "recipe", "scaler", "skipped", "checksums"}


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
        stays = (
            moment == "step" and parameter.device.type not in FUSED
        )  # only fused kernels count on the device
        optimizer.state[parameter][moment] = value if stays else value.to(parameter.device)


def save_state(folder: Path, state: RunState, *, keep: int) -> Path:
    """Write `folder/<step>` completely or not at all, then remove all but the newest `keep` states.

    Where this run has a whole state of the step already, that one stays: a run passes each step in one way only.
    Raises StorageError.
    """
    final = folder / f"{state.step:06d}"
    try:
        if not _is_whole(final, state.recipe_hash):
            _write(folder, final, state)
        _prune(folder, state.step, keep)
    except OSError as error:
        raise StorageError(
            f"cannot save the state in {folder}: {error.strerror or error}. The states saved before are untouched."
        ) from error
    return final


def _write(folder: Path, final: Path, state: RunState) -> None:
    staged = folder / f".{final.name}.staged"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    groups = {"values": state.values, "average": state.average or {}, "optimizer": state.optimizer}
    for name, tensors in groups.items():
        write_safetensors(staged / f"{name}.safetensors", {k: v.cpu() for k, v in tensors.items()}, {})
    facts: dict[str, Any] = {
        "step": state.step,
        "recipe": state.recipe_hash,
        "scaler": dict(state.scaler),
        "skipped": state.skipped,
        "checksums": {f"{name}.safetensors": _checksum(staged / f"{name}.safetensors") for name in groups},
    }
    facts["manifest"] = _own_checksum(facts)
    _write_synced(staged / MANIFEST, json.dumps(facts, indent=1))
    sync_folder(staged)
    shutil.rmtree(final, ignore_errors=True)  # it was damaged, else it would have stayed
    os.replace(staged, final)
    sync_folder(folder)


def _prune(folder: Path, newest: int, keep: int) -> None:
    """Remove old states, later ones (damaged: the run went back behind them), and what a kill left half written."""
    kept = [step for step in _steps(folder) if step <= newest][-keep:]
    for step in _steps(folder):
        if step not in kept:
            shutil.rmtree(folder / f"{step:06d}", ignore_errors=True)
    for staged in folder.glob(".*.staged"):
        shutil.rmtree(staged, ignore_errors=True)


def load_latest(folder: Path, events: Events) -> RunState | None:
    """The newest state that is whole; damaged ones are skipped with a warning. None when there is no state."""
    for step in reversed(_steps(folder)):
        try:
            return _load(folder / f"{step:06d}")
        except (CheckpointError, OSError, ValueError) as error:
            events.warn(f"state {step} is damaged and is skipped: {error}")
    return None


def check_recipe(saved: str, recipe_hash: str) -> None:
    """Refuse to go on with a recipe that would have trained otherwise than the one whose hash was saved."""
    if saved != recipe_hash:
        raise RecipeError(
            "the recipe differs from the one this run was started with, so going on would not be the same run. "
            "Only previews, output, validation, and in training the steps, the device and save_every may change. "
            "Restore the recipe (the run's recipe.toml holds it), or start a run with another name."
        )


def saved_recipe(folder: Path) -> str | None:
    """The recipe's hash in the newest manifest that can be read; no tensor is looked at. None without a state."""
    for step in reversed(_steps(folder)):
        try:
            return str(json.loads((folder / f"{step:06d}" / MANIFEST).read_text(encoding="utf-8"))["recipe"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _load(path: Path) -> RunState:
    facts = _checked_facts(path)
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


def _is_whole(path: Path, recipe_hash: str) -> bool:
    try:
        return bool(_checked_facts(path)["recipe"] == recipe_hash)
    except (CheckpointError, OSError, ValueError):
        return False


def _checked_facts(path: Path) -> dict[str, Any]:
    """The manifest, once all that it speaks of and itself are as they were written. Raises CheckpointError."""
    facts = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(facts, dict) or facts.keys() - {"manifest"} != FACTS:
        raise CheckpointError(f"{path / MANIFEST} does not say what a manifest says")
    if facts.get("manifest", wanted := _own_checksum(facts)) != wanted or facts["step"] != int(path.name):
        raise CheckpointError(f"{path / MANIFEST} does not match its checksum")
    for name, checksum in facts["checksums"].items():
        if _checksum(path / name) != checksum:
            raise CheckpointError(f"{path / name} does not match its checksum")
    return facts


def _own_checksum(facts: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in facts.items() if key != "manifest"}
    return hashlib.blake2b(json.dumps(rest, sort_keys=True).encode(), digest_size=16).hexdigest()


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
