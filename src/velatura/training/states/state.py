"""The exact state of a run on disk: staged, checksummed, renamed into place, so a kill never harms the last one.

Random numbers are counted, not stored (see `draws`), and the loader's position is the step: what is left is values,
averages, the optimizer's moments and the loss scaler.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from velatura.checkpoints.reader import TensorFile
from velatura.checkpoints.writing import header_bytes, payload_size, sync_folder, write_safetensors
from velatura.errors import CheckpointError, StorageError
from velatura.training.distribution.part_files import PartFiles
from velatura.training.states.identity import Identity
from velatura.training.states.manifest import (
    MANIFEST,
    change_facts,
    checked_facts,
    damage_told,
    read_facts,
    tensor_files,
    write_facts,
)
from velatura.training.states.retention import prune_states

GROUPS = ("values", "average", "optimizer")  # of tensors: a file each, or a folder of files
VALUES = "values.safetensors"
MANIFEST_ROOM = 64 * 1024  # bytes, more than it takes

Groups = Mapping[str, Mapping[str, Tensor]]


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
    left_out: int = 0
    fitting: Mapping[str, int] = field(default_factory=dict)  # "1024x768": so many at once fit in memory
    exported: bool = False  # whether what a user takes away was written after this step
    validated: bool = False  # whether the validation that is due after this step was made
    painted: tuple[str, ...] = ()  # of the previews that are due after this step, see `Showing`


def staging(folder: Path, step: int) -> Path:
    """Where a state is written before it is renamed into place."""
    return folder / f".{step:06d}.staged"


def write_whole(staged: Path, groups: Groups) -> None:
    """Each group of tensors as one file."""
    for name, tensors in groups.items():
        write_safetensors(staged / f"{name}.safetensors", tensors, {})


def save_state(
    folder: Path,
    state: RunState,
    *,
    keep: int,
    keep_every: int | None = None,
    write: Callable[[Path, Groups], None] = write_whole,
) -> Path:
    """Write `folder/<step>` completely or not at all, then remove all but the newest `keep` states.

    `write` puts the tensors into the staged folder, each group as a file or a folder of its name. States whose step is
    a multiple of `keep_every` stay. A state of this step that is there already is one that the run went back behind:
    it is replaced. Raises StorageError.
    """
    final = folder / f"{state.step:06d}"
    staged = staging(folder, state.step)
    try:
        _check_room(folder, state)
        _write(staged, final, state, write)
        prune_states(folder, newest=state.step, keep=keep, every=keep_every)
    except (OSError, StorageError) as error:
        shutil.rmtree(staged, ignore_errors=True)
        what = f"{error.strerror or error}." if isinstance(error, OSError) else str(error)
        raise StorageError(f"cannot save the state of step {state.step}: {what}") from error
    return final


def record_made(path: Path, *, exported: bool, validated: bool, painted: Sequence[str]) -> None:
    """Note in a saved state what was made of the files, the validation and the previews that follow its step.

    Where someone removed the state meanwhile, there is nothing to note. Raises StorageError.
    """
    if not (path / MANIFEST).exists():
        return
    try:
        change_facts(path, exported=exported, validated=validated, painted=list(painted))
    except CheckpointError as error:
        raise StorageError(f"{path / MANIFEST} cannot be read any more: {error}") from error


def is_state(path: Path) -> bool:
    """Whether a folder is meant to be a state."""
    return (path / MANIFEST).is_file()


def read_state(path: Path) -> RunState:
    """A whole state. Raises CheckpointError where it is damaged, RecipeError where another version wrote it."""
    with damage_told():
        facts = checked_facts(path)
        groups = {name: _read(path, name) for name in GROUPS}
        return RunState(
            step=facts["step"],
            identity=Identity(**facts["identity"]),
            values=groups["values"],
            average=groups["average"] or None,
            optimizer=groups["optimizer"],
            scaler=facts["scaler"],
            skipped=facts["skipped"],
            left_out=facts["left_out"],
            fitting=facts["fitting"],
            exported=facts["exported"],
            validated=facts["validated"],
            painted=tuple(facts["painted"]),
        )


def read_identity(path: Path) -> Identity:
    """That of a state, by its manifest; no tensor is looked at. Raises as `read_state`."""
    with damage_told():
        return Identity(**read_facts(path)["identity"])


def values_files(path: Path) -> list[Path]:
    """The files of a state that hold the trained values."""
    return [path / name for name in tensor_files(path) if name.split("/")[0] in ("values", VALUES)]


def read_values(path: Path) -> Mapping[str, Tensor]:
    """The trained values of a state, and nothing else of it. Raises as `read_state`."""
    with damage_told():
        checked_facts(path)
        return _read(path, "values")


def groups_of(state: RunState) -> dict[str, Mapping[str, Tensor]]:
    """The tensors of a state by the file that they are in."""
    return {"values": state.values, "average": state.average or {}, "optimizer": state.optimizer}


def _check_room(folder: Path, state: RunState) -> None:
    """Before anything is written, so that a disk is not filled to its last byte. Raises StorageError, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    groups = groups_of(state).values()
    size = MANIFEST_ROOM + sum(len(header_bytes(tensors)) + payload_size(tensors) for tensors in groups)
    if (free := shutil.disk_usage(folder).free) < size:
        raise StorageError(f"it takes {size:,} bytes, and {folder} has {free:,} free; make room.")


def _write(staged: Path, final: Path, state: RunState, write: Callable[[Path, Groups], None]) -> None:
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    write(staged, groups_of(state))
    facts: dict[str, Any] = {
        "step": state.step,
        "identity": state.identity.record(),
        "scaler": dict(state.scaler),
        "skipped": state.skipped,
        "left_out": state.left_out,
        "fitting": dict(state.fitting),
        "exported": state.exported,
        "validated": state.validated,
        "painted": list(state.painted),
    }
    write_facts(staged, facts)
    sync_folder(staged)
    shutil.rmtree(final, ignore_errors=True)  # the one behind which the run went back is still there
    os.replace(staged, final)
    sync_folder(final.parent)


def _read(path: Path, group: str) -> Mapping[str, Tensor]:
    if (path / group).is_dir():
        return PartFiles(path / group)
    with TensorFile(path / f"{group}.safetensors") as file:
        return {key: file.read(key) for key in file}
