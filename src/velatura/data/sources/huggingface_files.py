"""The files of a Hugging Face dataset on disk that hold one of its splits."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from velatura.data.images import EXTENSIONS
from velatura.data.items import some
from velatura.errors import DataError

TRAIN = "train"
# the words by which the library tells splits in the names of files and folders
_SPLITS = (
    {"train", "training"},
    {"validation", "valid", "val", "dev"},
    {"test", "testing", "eval", "evaluation"},
)
_TABLES = (".parquet", ".arrow")
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def split_files(root: Path, name: str, split: str | None) -> list[str]:
    """The tables of a split, relative to the folder, in order: its data, or the list of the pictures beside it.

    `name` is what messages call the folder. Raises DataError where there is none, or more than one dataset.
    """
    if (root / "dataset_dict.json").is_file():
        said = _json(root / "dataset_dict.json").get("splits")
        splits = [str(one) for one in said] if isinstance(said, list) else []
        wanted = split or TRAIN
        if wanted not in splits:
            raise DataError(f"dataset '{name}' has no split '{wanted}'; it has {some(splits, 12) or 'none'}.")
        return [f"{wanted}/{file}" for file in _saved(root / wanted, f"{name}/{wanted}", None)]
    if (root / "state.json").is_file():
        return _saved(root, name, split)
    there = sorted(_walk(root))
    lists = [path for path in there if path.rsplit("/", 1)[-1] in _METADATA]
    tables = lists or [path for path in there if path.lower().endswith(_TABLES)]
    if not tables:
        raise DataError(_why_empty(name, there))
    return _together(name, _of_split(name, tables, split))


def _saved(folder: Path, name: str, split: str | None) -> list[str]:
    """What `save_to_disk` wrote for one split."""
    state = _json(folder / "state.json")
    if split is not None and state.get("_split") not in (None, split):
        raise DataError(
            f"dataset '{name}' is the split '{state['_split']}', and split = \"{split}\" was asked for."
        )
    if state.get("_indices_data_files"):
        raise DataError(
            f"dataset '{name}' was saved with a separate order of its rows, by an old version of the library. "
            "Load it with `datasets` and save it again."
        )
    try:
        files = [str(file["filename"]) for file in state["_data_files"]]
    except (KeyError, TypeError):
        files = []
    if not files:
        raise DataError(f"state.json of dataset '{name}' names no data files; expected `_data_files`.")
    if lost := [file for file in files if not os.path.isfile(folder / Path(file).name)]:  # noqa: PTH113
        raise DataError(f"dataset '{name}' lacks files that its state.json names: {some(lost)}.")
    return [Path(file).name for file in files]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"'{path}' cannot be read as JSON: {error}.") from None
    return found if isinstance(found, dict) else {}


def _walk(root: Path) -> Iterator[str]:
    """Relative paths of all visible files."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(folder).relative_to(root)
        yield from ((relative / name).as_posix() for name in files if not name.startswith("."))


def _of_split(name: str, files: Sequence[str], split: str | None) -> list[str]:
    """Those whose names have the split's word; all of them, where no name has one and none was asked for."""
    wanted = next((words for words in _SPLITS if (split or TRAIN) in words), {split or TRAIN})
    words = {file: set(re.split(r"[^a-z0-9]+", file.lower())) for file in files}
    chosen = [file for file in files if words[file] & wanted]
    named = sorted(
        {word for file in files for word in words[file] if any(word in known for known in _SPLITS)}
    )
    if not chosen and not named and split is None:
        return list(files)
    if not chosen:
        raise DataError(
            f"dataset '{name}' has no files of the split '{split or TRAIN}'; "
            f"{'its files name ' + ', '.join(named) if named else 'the names of its files tell no splits'}."
        )
    return chosen


def _together(name: str, files: list[str]) -> list[str]:
    folders = sorted({file.rpartition("/")[0] for file in files})
    kinds = sorted(
        {file.rpartition("/")[2] if file.endswith(_METADATA) else Path(file).suffix for file in files}
    )
    if len(folders) > 1 or len(kinds) > 1:
        what = f"the folders {some(folders)}" if len(folders) > 1 else some(kinds)
        raise DataError(
            f"'{name}' holds several datasets, in {what}. Name one of them: a folder as repository, or a single file "
            'with kind = "table" and file = …'
        )
    return files


def _why_empty(name: str, there: Sequence[str]) -> str:
    endings = {Path(path).suffix.lower() for path in there}
    hint = "it is empty." if not there else f"it holds {some(sorted(endings - {''}), 8)}."
    if ".tar" in endings:
        hint = f'it holds tar shards: shards = "{name}/*.tar" reads those.'
    elif endings & EXTENSIONS:
        hint = (
            f'it holds pictures and no {_METADATA[0]}: folder = "{name}" with recursive = true reads those.'
        )
    return (
        f"'{name}' is no dataset that is read: expected what `save_to_disk` wrote, Parquet files, or pictures with "
        f"{' or '.join(_METADATA)}; {hint}"
    )
