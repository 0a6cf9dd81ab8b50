"""`[[data]] kind = "huggingface"`: a dataset of the `datasets` library on disk, read without that library."""

from __future__ import annotations

import posixpath
from pathlib import Path

from velatura.data.sources.huggingface_files import split_files
from velatura.data.sources.lookup import Lookup
from velatura.data.sources.record import Reading
from velatura.data.sources.table import open_table
from velatura.data.sources.table_rows import read_rows
from velatura.data.tables.rows import joined
from velatura.errors import DataError
from velatura.recipe.data.sources.huggingface import HuggingFaceData


def read_huggingface(section: HuggingFaceData, base: Path) -> Reading:
    """The rows of a split, in the order of its files. Raises DataError where there is no such dataset or split."""
    root = base / Path(section.repository).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else f"does not exist (looked for {root.absolute()})"
        raise DataError(f"repository '{section.repository}' {what}; expected the folder of a dataset.")
    name = section.repository.rstrip("/")
    files = split_files(root, name, section.split)
    table = joined({file: open_table(f"{name}/{file}", root / file) for file in files})
    beside = posixpath.join(name, posixpath.dirname(files[0])).rstrip("/")
    return read_rows(name, root, section, table, Lookup([beside], base, outside=section.outside))
