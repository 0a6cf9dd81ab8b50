"""One subset of a dataset file of sd-scripts with the levels above it, and which of its three styles it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from velatura.data.sources.sd_scripts_keys import Dataset, DatasetFile, EveryLevel, General, Subset
from velatura.recipe.lines import KeyPath
from velatura.recipe.problems import Problem

Style = Literal["dreambooth", "fine-tuning", "controlnet"]
_REQUIRED: dict[Style, tuple[str, ...]] = {
    "dreambooth": ("image_dir",),
    "fine-tuning": ("metadata_file",),
    "controlnet": ("image_dir", "conditioning_data_dir"),
}
_FOREIGN: dict[Style, tuple[str, ...]] = {
    "dreambooth": (),
    "fine-tuning": ("is_reg", "conditioning_data_dir"),
    "controlnet": ("is_reg", "alpha_mask", "metadata_file"),
}


@dataclass(frozen=True, kw_only=True)
class Levels:
    """A subset, its dataset and the general table; the first that names a key decides, false and 0 included."""

    subset: Subset
    dataset: Dataset
    general: General
    at: KeyPath  # of the subset
    style: Style

    def get(self, key: str) -> Any:
        """The value that counts; None where no level names the key."""
        found = self._naming(key)
        return None if found is None else getattr(found[1], key)

    def path(self, key: str) -> KeyPath:
        """Where the value that counts stands; in the subset where none does."""
        found = self._naming(key)
        return (*(self.at if found is None else found[0]), key)

    def _naming(self, key: str) -> tuple[KeyPath, EveryLevel] | None:
        levels = ((self.at, self.subset), (self.at[:2], self.dataset), (("general",), self.general))
        return next((found for found in levels if getattr(found[1], key, None) is not None), None)


def levels_of(file: DatasetFile, problems: list[Problem]) -> list[list[Levels]]:
    """The subsets of each dataset; what does not go together is added to `problems`."""
    if not file.datasets:
        problems.append(Problem(path=("datasets",), what="no entry; at least one [[datasets]] is needed"))
    return [list(_levels(file, number, problems)) for number in range(len(file.datasets))]


def _levels(file: DatasetFile, number: int, problems: list[Problem]) -> Iterator[Levels]:
    dataset, at = file.datasets[number], ("datasets", number)
    if not dataset.subsets:
        problems.append(Problem(path=at, what="no images; at least one [[datasets.subsets]] is needed"))
        return
    style = _style(dataset.subsets)
    if style is None:
        what = "subsets of several styles; allowed in one dataset: all with metadata_file, all with "
        what += "conditioning_data_dir, or none with either"
        problems.append(Problem(path=at, what=what, hint="put them in a [[datasets]] of their own"))
        return
    for index, subset in enumerate(dataset.subsets):
        place: KeyPath = (*at, "subsets", index)
        problems += _unfit(subset, style, place)
        yield Levels(subset=subset, dataset=dataset, general=file.general, at=place, style=style)


def _style(subsets: Sequence[Subset]) -> Style | None:
    styles: set[Style] = {
        "controlnet"
        if subset.conditioning_data_dir is not None
        else "dreambooth"
        if subset.metadata_file is None
        else "fine-tuning"
        for subset in subsets
    }
    return styles.pop() if len(styles) == 1 else None


def _unfit(subset: Subset, style: Style, at: KeyPath) -> Iterator[Problem]:
    for key in _REQUIRED[style]:
        if getattr(subset, key) is None:
            yield Problem(path=(*at, key), what=f"the key {key} is missing")
    for key in _FOREIGN[style]:
        if getattr(subset, key) not in (None, False):
            yield Problem(
                path=(*at, key), what=f"does not go with the {style} style, of {_REQUIRED[style][-1]}"
            )
