"""From what a user writes (a name, a file, a folder, a hub id) to a path on this machine."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from velatura.checkpoints.fingerprint import fingerprint
from velatura.errors import ModelError
from velatura.interfaces import ModelFiles

POCKET = Path(__file__).parent.parent / "pocket" / "models"
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def locate(source: str, base: Path, *, patterns: Sequence[str] = ()) -> Path:
    """A local path for `source`; a hub id is downloaded once (only files that match `patterns`).

    Relative paths start at `base`. Raises ModelError when nothing is there, or the hub cannot be reached.
    """
    if source.startswith("pocket/"):
        return _pocket(source)
    path = (base / Path(source).expanduser()).resolve()
    if path.exists():
        return path
    if _HUB_ID.match(source) and not source.startswith("."):
        return _download(source, patterns, path)
    raise ModelError(
        f"no such file or folder: {path}. A model is a file, a folder, a hub id such as "
        "'black-forest-labs/FLUX.1-dev', or 'pocket/flux'."
    )


def part_path(files: ModelFiles, own: str | None, subfolder: str, what: str, *, patterns: Sequence[str] = ()) -> Path:
    """Where one part is: its own source, or the sub-folder of `files.model`. Raises ModelError when neither is given."""
    if own is not None:
        path = locate(own, files.base, patterns=patterns)
        return path / subfolder if (path / subfolder).is_dir() else path
    if files.model is None:
        raise ModelError(f"the {what} is not given: set model.model, or the part's own key in [model]")
    root = locate(files.model, files.base, patterns=(f"{subfolder}/*", "*.json"))
    if root.is_file():
        return root
    if not (root / subfolder).is_dir():
        raise ModelError(f"{root} has no folder '{subfolder}', where the {what} of a diffusers model is")
    return root / subfolder


def read_json(path: Path) -> dict[str, Any]:
    """A config file. Raises ModelError when it is missing or no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"no config file {path}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the config {path}: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"the config {path} is no JSON object")
    return content


def _pocket(source: str) -> Path:
    path = POCKET / source.removeprefix("pocket/")
    if path.parent != POCKET or not path.is_dir():
        names = sorted(f"pocket/{entry.name}" for entry in POCKET.iterdir() if entry.is_dir())
        raise ModelError(f"there is no model '{source}'; inside the package are: {', '.join(names)}")
    return path


def _download(source: str, patterns: Sequence[str], path: Path) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, and not needed for local models
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=list(patterns) or None))
    except LocalEntryNotFoundError:
        offline = os.environ.get("HF_HUB_OFFLINE")
        reason = "offline mode is on (HF_HUB_OFFLINE)" if offline else "the hub cannot be reached"
        raise ModelError(
            f"'{source}' is neither a path ({path} does not exist) nor a model in the hub's local cache, and {reason}. "
            "Download it first, or give a local file or folder."
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(
            f"'{source}' could not be downloaded from the hub: {str(error).splitlines()[0]} "
            "If the model is gated, accept its licence on its page and set HF_TOKEN."
        ) from None


def config_fields(cls: Any, config: dict[str, Any]) -> dict[str, Any]:
    """The entries of a diffusers config that `cls` takes; the class's name and version notes are left out."""
    known = set(inspect.signature(cls.__init__).parameters)
    return {name: value for name, value in config.items() if name in known}


def weight_files(path: Path) -> list[Path]:
    """The files that hold a part's weights: the file itself, or all weight files of a folder (maybe none)."""
    if path.is_file():
        return [path]
    return sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".bin", ".pt") and p.is_file())


def weights_identity(paths: Sequence[Path]) -> str:
    """Identity of a part's weights, for cache keys and metadata; empty where there are none (yet)."""
    found = [file for path in paths for file in weight_files(path)]
    return fingerprint(found) if found else ""
