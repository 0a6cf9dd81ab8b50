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
from velatura.checkpoints.writing import sync_folder, write_atomically, write_safetensors
from velatura.errors import CheckpointError, RecipeError, StorageError
from velatura.events import Events
from velatura.training.identity import Identity
from velatura.training.optimizer import FUSED

MANIFEST = "manifest.json"
FORMAT = 2  # of states; they are read by versions that write the same


@dataclass(frozen=True, kw_only=True)
class RunState:
    """All that a run needs to go on as if it had never stopped."""

    step: int
    identity: Identity
    values: Mapping[str, Tensor]
    average: Mapping[str, Tensor] | None
    optimizer: Mapping[str, Tensor]  # "<parameter>/<moment>"
    scaler: Mapping[str, Any]
    skipped: int = 0
    validated: bool = False  # whether the validation that is due after this step was made
    painted: int = 0  # so many of the previews that are due after this step


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
    staged = folder / f".{final.name}.staged"
    try:
        if not _is_whole(final, state.identity):
            _write(staged, final, state)
        _prune(folder, state.step, keep)
    except (OSError, StorageError) as error:
        shutil.rmtree(staged, ignore_errors=True)
        what = f"{error.strerror or error}." if isinstance(error, OSError) else str(error)
        raise StorageError(
            f"cannot save the state of step {state.step}: {what} The states saved before are untouched: "
            "make room, and go on with --resume."
        ) from error
    return final


def record_shown(path: Path, *, validated: bool, painted: int) -> None:
    """Note in a saved state what was made of the validation and the previews after its step.

    Where someone removed the state meanwhile, there is nothing to note. Raises StorageError.
    """
    if not (path / MANIFEST).exists():
        return
    facts = _read_facts(path)
    if (facts["validated"], facts["painted"]) != (validated, painted):
        _write_facts(path, {**facts, "validated": validated, "painted": painted})


def _write(staged: Path, final: Path, state: RunState) -> None:
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    groups = {"values": state.values, "average": state.average or {}, "optimizer": state.optimizer}
    for name, tensors in groups.items():
        write_safetensors(staged / f"{name}.safetensors", {k: v.cpu() for k, v in tensors.items()}, {})
    facts: dict[str, Any] = {
        "format": FORMAT,
        "step": state.step,
        "identity": state.identity.record(),
        "scaler": dict(state.scaler),
        "skipped": state.skipped,
        "validated": state.validated,
        "painted": state.painted,
        "checksums": {f"{name}.safetensors": _checksum(staged / f"{name}.safetensors") for name in groups},
    }
    _write_facts(staged, facts)
    sync_folder(staged)
    shutil.rmtree(final, ignore_errors=True)  # it was damaged, else it would have stayed
    os.replace(staged, final)
    sync_folder(final.parent)


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


def saved_identity(folder: Path) -> Identity | None:
    """Of the newest state whose manifest can be read; no tensor is looked at. None without a state."""
    for step in reversed(_steps(folder)):
        try:
            return Identity(**_read_facts(folder / f"{step:06d}")["identity"])
        except (CheckpointError, OSError, ValueError):
            continue
    return None


def _load(path: Path) -> RunState:
    facts = _checked_facts(path)
    groups = {name: _read(path / f"{name}.safetensors") for name in ("values", "average", "optimizer")}
    return RunState(
        step=facts["step"],
        identity=Identity(**facts["identity"]),
        values=groups["values"],
        average=groups["average"] or None,
        optimizer=groups["optimizer"],
        scaler=facts["scaler"],
        skipped=facts["skipped"],
        validated=facts["validated"],
        painted=facts["painted"],
    )


def _is_whole(path: Path, identity: Identity) -> bool:
    try:
        return bool(Identity(**_checked_facts(path)["identity"]) == identity)
    except (CheckpointError, OSError, ValueError):
        return False


def _checked_facts(path: Path) -> dict[str, Any]:
    """The manifest, once all that it speaks of and itself are as they were written. Raises CheckpointError."""
    facts = _read_facts(path)
    for name, checksum in facts["checksums"].items():
        if _checksum(path / name) != checksum:
            raise CheckpointError(f"{path / name} does not match its checksum")
    return facts


def _read_facts(path: Path) -> dict[str, Any]:
    """The manifest alone. Raises CheckpointError, RecipeError where another version wrote it."""
    facts = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(facts, dict) or facts.get("manifest") != _own_checksum(facts):
        raise CheckpointError(f"{path / MANIFEST} does not match its checksum")
    if (found := facts.get("format")) != FORMAT:
        raise RecipeError(
            f"{path} was saved by another version of velatura (format {found}, this one reads {FORMAT}): "
            "go on with that version, or start a run with another name."
        )
    if facts["step"] != int(path.name):
        raise CheckpointError(f"{path / MANIFEST} is of step {facts['step']}")
    return facts


def _write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    text = json.dumps({**facts, "manifest": _own_checksum(facts)}, indent=1).encode()
    write_atomically(path / MANIFEST, lambda file: file.write(text), size=len(text))


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
