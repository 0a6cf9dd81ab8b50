"""Which columns of a table are read, and as what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from velatura.data.items import Role
from velatura.errors import DataError
from velatura.recipe.data.sources.rows import RowData
from velatura.recipe.errors import nearest

IMAGES = ("image", "image_path", "file_name")
CAPTIONS = ("prompt", "caption", "text")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of the columns; `own` are those that override a field of the table's treatment."""

    image: str
    caption: str | None
    tags: str | None
    companions: Mapping[Role, str]
    own: Mapping[str, str]

    @property
    def wanted(self) -> frozenset[str]:
        """All of them."""
        texts = [name for name in (self.caption, self.tags) if name is not None]
        return frozenset((self.image, *texts, *self.companions.values(), *self.own.values()))


def choose_columns(section: RowData, name: str, there: Sequence[str]) -> Columns:
    """What the recipe names, else what the table `name` has.

    Raises DataError for columns that are not there or ambiguous.
    """
    companions: dict[Role, str | None] = {
        "reference": section.reference_column,
        "control": section.control_column,
        "mask": section.mask_column,
        "depth": section.depth_column,
        "normals": section.normals_column,
    }
    own = {"repeats": section.repeats_column, "weight": section.weight_column, "flip": section.flip_column}
    chosen = Columns(
        image=section.image_column or _only(name, "image_column", IMAGES, there) or IMAGES[0],
        caption=_caption(section, name, there),
        tags=section.tags_column if _is_read(section.tags_column, section, there) else None,
        companions={role: column for role, column in companions.items() if column is not None},
        own={field: column for field, column in own.items() if column is not None},
    )
    if missing := sorted(chosen.wanted - set(there)):
        close = nearest(missing[0], there)
        raise DataError(
            f"table '{name}' has no column '{missing[0]}'{f'; did you mean {close!r}?' if close else '.'} "
            f"Its columns are {_listed(there)}; image_column, caption_column and so on name those to read."
        )
    return chosen


def _caption(section: RowData, name: str, there: Sequence[str]) -> str | None:
    if section.caption_column is not None:
        return section.caption_column if _is_read(section.caption_column, section, there) else None
    return _only(name, "caption_column", CAPTIONS, there)


def _is_read(column: str | None, section: RowData, there: Sequence[str]) -> bool:
    return bool(column) and (section.texts_must_exist or column in there)


def _only(name: str, key: str, usual: Sequence[str], there: Sequence[str]) -> str | None:
    """The one usual name that the table has."""
    found = [column for column in usual if column in there]
    if len(found) > 1:
        raise DataError(f"table '{name}' has the columns {_listed(found)}; say with {key} which one to read.")
    return found[0] if found else None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:20])
    return shown + (f" and {len(names) - 20} more" if len(names) > 20 else "") if names else "none"
