"""Which reader reads which kind of `[[data]]` table; a new kind is a line here, its reader and its schema."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from velatura.data.scanning.listings import Open
from velatura.data.sources.everydream2 import expand_everydream2, read_everydream2
from velatura.data.sources.folder import names_of_folder, read_folder
from velatura.data.sources.huggingface import read_huggingface
from velatura.data.sources.record import Expansion, Names, Reading
from velatura.data.sources.sd_scripts import expand_sd_scripts
from velatura.data.sources.table import read_table
from velatura.data.sources.webdataset import read_webdataset
from velatura.recipe.data.items import SourceData

READERS: dict[str, Callable[[Any, Path], Reading]] = {
    "folder": read_folder,
    "huggingface": read_huggingface,
    "table": read_table,
}

# kinds of which a whole scan is remembered
NAMES: dict[str, Callable[[Any, Path], Names]] = {
    "folder": names_of_folder,
}

# kinds that remember what is in their files
LISTING_READERS: dict[str, Callable[[Any, Path, Open], Reading]] = {
    "everydream2": read_everydream2,
    "webdataset": read_webdataset,
}

# kinds that stand for several tables of other kinds, such as another tool's dataset file
EXPANDERS: dict[str, Callable[[Any, Path], Expansion]] = {
    "everydream2": expand_everydream2,  # a list of roots
    "sd-scripts": expand_sd_scripts,
}


def expand(section: SourceData, base: Path) -> Expansion:
    """The tables that a table stands for; most stand for themselves. Raises DataError."""
    expander = EXPANDERS.get(section.kind)
    return Expansion(sections=[section]) if expander is None else expander(section, base)


def read(section: SourceData, base: Path, listings: Open) -> Reading:
    """What a table describes, before any image is opened; relative paths start at `base`. Raises DataError."""
    if section.kind in LISTING_READERS:
        return LISTING_READERS[section.kind](section, base, listings)
    return READERS[section.kind](section, base)
