"""The manifest of a state: its facts, and the checksums of its files and of itself. Written last, read first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from velatura.checkpoints.writing import write_bytes
from velatura.errors import CheckpointError, RecipeError

MANIFEST = "manifest.json"
FORMAT = 5  # of states; they are read by versions that write the same
# what a state raises that is not as it was written, whoever wrote it
DAMAGE = (CheckpointError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@contextmanager
def damage_told() -> Iterator[None]:
    """Turn all that a state which is not as it was written may raise into CheckpointError."""
    try:
        yield
    except DAMAGE as error:
        if isinstance(error, CheckpointError | OSError):
            raise CheckpointError(str(error)) from error
        what = f"its {MANIFEST} is not one of a state ({type(error).__name__}: {error})"
        raise CheckpointError(what) from error


def read_facts(path: Path) -> dict[str, Any]:
    """The manifest alone. Raises CheckpointError, RecipeError where another version wrote it."""
    facts = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(facts, dict) or facts.get("manifest") != _own_checksum(facts):
        raise CheckpointError(f"{path / MANIFEST} does not match its checksum")
    if (found := facts.get("format")) != FORMAT:
        raise RecipeError(
            f"{path} was saved by another version of velatura (format {found}, this one reads {FORMAT}): "
            "go on with that version, or start a run with another name."
        )
    if path.name.isdigit() and facts["step"] != int(path.name):
        raise CheckpointError(f"{path / MANIFEST} is of step {facts['step']}")
    return facts


def checked_facts(path: Path) -> dict[str, Any]:
    """The manifest, once all that it speaks of and itself are as they were written. Raises CheckpointError."""
    facts = read_facts(path)
    if (there := tensor_files(path)) != sorted(facts["checksums"]):
        raise CheckpointError(
            f"{path} holds other files than it was saved with: {', '.join(there) or 'none'}"
        )
    for name in there:
        if _checksum(path / name) != facts["checksums"][name]:
            raise CheckpointError(f"{path / name} does not match its checksum")
    return facts


def write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of the state in `path`, with the format and the checksums of the files that are there.

    Raises StorageError.
    """
    sums = {name: _checksum(path / name) for name in tensor_files(path)}
    _put(path, {"format": FORMAT, **facts, "checksums": sums})


def change_facts(path: Path, **changed: Any) -> None:
    """Write the manifest again, where that makes a difference; the files are not looked at.

    Raises CheckpointError where it cannot be read, StorageError.
    """
    with damage_told():
        facts = read_facts(path)
    if any(facts[name] != value for name, value in changed.items()):
        _put(path, {**facts, **changed})


def tensor_files(path: Path) -> list[str]:
    """A file per group, or the files of a folder per group."""
    return sorted(file.relative_to(path).as_posix() for file in path.rglob("*.safetensors"))


def _put(path: Path, facts: Mapping[str, Any]) -> None:
    text = json.dumps({**facts, "manifest": _own_checksum(facts)}, indent=1)
    write_bytes(path / MANIFEST, text.encode())


def _own_checksum(facts: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in facts.items() if key != "manifest"}
    return hashlib.blake2b(json.dumps(rest, sort_keys=True).encode(), digest_size=16).hexdigest()


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
