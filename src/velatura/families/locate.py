"""From what a user writes (a name, a file, a folder, a hub id) to a path on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from velatura.checkpoints.fingerprint import fingerprint
from velatura.checkpoints.opening import WEIGHTS
from velatura.errors import ModelError
from velatura.interfaces import ModelFiles
from velatura.recipe.path_keys import sound_path
from velatura.recipe.paths import is_hub_id, resolve

POCKET = Path(__file__).parent.parent / "pocket" / "models"
OTHER_VARIANTS = ("*.fp16.*", "*.non_ema.*", "*.msgpack", "*.onnx*")  # of a hub repository: not what is read


def locate(source: str, base: Path, *, patterns: Sequence[str] = ()) -> Path:
    """A local path for `source`; a hub id is downloaded once (only files that match `patterns`).

    Relative paths start at `base`. Raises ModelError when nothing is there, or the hub cannot be reached.
    """
    try:
        sound_path(source)
    except ValueError as error:
        raise ModelError(f"no model can be there: {error}.") from None
    if source.startswith("pocket/"):
        return _pocket(source)
    path = resolve(source, base)
    if path.exists():
        return path
    if is_hub_id(source):
        return _download(source, patterns, path)
    raise ModelError(
        f"no such file or folder: {path}. A model is a file, a folder, a hub id ('owner/name'), "
        f"or one inside the package: {', '.join(_pocket_names())}."
    )


def part_path(files: ModelFiles, own: str | None, subfolder: str, what: str) -> Path:
    """Where one part is: its own source, or the sub-folder of `files.model`. Raises ModelError."""
    patterns = (f"{subfolder}/*", "*.json")
    if own is not None:
        path = locate(own, files.base, patterns=patterns)
        if (path / subfolder).is_dir():
            return path / subfolder
        return locate(own, files.base, patterns=("*.json", *(f"*{kind}" for kind in WEIGHTS)))
    if files.model is None:
        raise ModelError(f"the {what} is not given: set model.model, or the part's own key in [model]")
    root = locate(files.model, files.base, patterns=patterns)
    if root.is_file():
        return root
    if not (root / subfolder).is_dir():
        raise ModelError(
            f"{root} has no folder '{subfolder}', where the {what} of a diffusers model is. "
            "If this folder holds trained parts only, name it as that part (denoiser = …) beside the whole model."
        )
    return root / subfolder


def weight_files(path: Path) -> list[Path]:
    """The files that hold a part's weights: the file itself, or all weight files of a folder (maybe none)."""
    if path.is_file():
        return [path]
    return sorted(p for p in path.iterdir() if p.suffix in WEIGHTS and p.is_file())


def weights_identity(paths: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> str:
    """Identity of a part's weights and configs, for cache keys and metadata; empty where there are none (yet)."""
    found = [file for path in paths for file in weight_files(path)]
    return fingerprint(found, configs) if found else ""


def _pocket(source: str) -> Path:
    path = POCKET / source.removeprefix("pocket/")
    if path.parent != POCKET or not path.is_dir():
        raise ModelError(
            f"there is no model '{source}'; inside the package are: {', '.join(_pocket_names())}"
        )
    return path


def _pocket_names() -> list[str]:
    return sorted(f"pocket/{entry.name}" for entry in POCKET.iterdir() if entry.is_dir())


def _download(source: str, patterns: Sequence[str], path: Path) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, and not needed for local models
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                source, allow_patterns=list(patterns) or None, ignore_patterns=list(OTHER_VARIANTS)
            )
        )
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
