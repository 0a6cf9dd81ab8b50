"""`[[data]] kind = "table"`: a file whose rows name an image, its caption and its companions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from velatura.data.sources.lookup import Lookup
from velatura.data.sources.record import Reading
from velatura.data.sources.table_rows import read_rows
from velatura.data.tables.arrow_table import open_arrow
from velatura.data.tables.csv_table import open_csv
from velatura.data.tables.json_table import open_json, open_jsonl
from velatura.data.tables.parquet_table import open_parquet
from velatura.data.tables.rows import Table
from velatura.errors import DataError
from velatura.recipe.data.sources.table import TableData

_OPENERS: dict[str, Callable[[Path, str], Table]] = {
    ".csv": open_csv,
    ".tsv": open_csv,
    ".json": open_json,
    ".jsonl": open_jsonl,
    ".parquet": open_parquet,
    ".arrow": open_arrow,
}


def read_table(section: TableData, base: Path) -> Reading:
    """The rows of a table, in its order.

    Raises DataError for a table that is missing, not of its format, or that `read_rows` refuses.
    """
    path = base / Path(section.file).expanduser()
    table = open_table(section.file, path)
    lookup = Lookup(_folders(section), base, outside=section.outside)
    return read_rows(section.file, path, section, table, lookup)


def open_table(name: str, path: Path) -> Table:
    """A table by its ending; `name` is what messages call it. Raises DataError."""
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise DataError(f"table '{name}' ends in '{path.suffix}'; allowed: {', '.join(_OPENERS)}.")
    if not path.is_file():
        what = f"does not exist (looked for {path.absolute()})"
        if path.exists():
            what = "is a folder" if path.is_dir() else "is no regular file"
        raise DataError(f"table '{name}' {what}. Relative paths start at the recipe's own folder.")
    try:
        return opener(path, name)
    except OSError as error:
        raise DataError(f"table '{name}' cannot be read: {error.strerror or error}.") from error


def _folders(section: TableData) -> Sequence[str]:
    """Where the files are: as the recipe says, else beside the table."""
    if section.folder is None:
        return [str(Path(section.file).parent)]
    return [section.folder] if isinstance(section.folder, str) else section.folder
