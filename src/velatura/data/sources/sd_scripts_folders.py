"""Folders laid out for sd-scripts without a dataset file: `10_ohwx dog` holds images of ten repeats."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from velatura.data.items import some
from velatura.data.sources.record import Expansion
from velatura.data.sources.sd_scripts_tables import dataset_of, shared_keys
from velatura.errors import DataError
from velatura.recipe.data.sources.folder import FolderData
from velatura.recipe.data.sources.sd_scripts import SdScriptsData

_NAME = re.compile(r"(\d+)(?:_(.*))?", re.DOTALL)


def expand_folders(section: SdScriptsData, base: Path) -> Expansion:
    """A table for each folder named `<repeats>_<class tokens>`. Raises DataError where there is none."""
    notices: list[str] = []
    train = str(section.train_folder)
    tables = [FolderData(**values) for values in _inside(train, section, base, notices)]
    if not tables:
        raise DataError(
            f"'{train}' has no folder named <repeats>_<class tokens>, such as '10_ohwx dog'. "
            "Put the images into one, or name a folder of images with folder = …, without kind."
        )
    if section.reg_folder is not None:
        classes = {"regularisation": True, "weight": section.weight * section.prior_loss_weight}
        tables += [
            FolderData(**{**values, **classes})
            for values in _inside(section.reg_folder, section, base, notices)
        ]
    return Expansion(sections=tables, notices=tuple(notices))


def _inside(name: str, section: SdScriptsData, base: Path, notices: list[str]) -> Iterator[dict[str, Any]]:
    root = base / Path(name).expanduser()
    if not root.is_dir():
        raise DataError(f"'{name}' is no folder (looked for {root.absolute()}).")
    dataset = dataset_of(section, str(section.train_folder))
    shared = shared_keys(section) | {"dataset": dataset, "caption_extension": section.caption_extension}
    other = []
    for folder in sorted(root.iterdir()):
        found = _NAME.fullmatch(folder.name)
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        if found is None or int(found[1]) < 1:
            other.append(folder.name)
            continue
        values = {"folder": f"{name.rstrip('/')}/{folder.name}", "repeats": int(found[1])}
        yield {**shared, **values, "caption": found[2] or None}
    if other:
        notices.append(
            f"{len(other)} folders in '{name}' are left out, for their names do not begin with a number of repeats "
            f"and an underscore: {some(other)}."
        )
