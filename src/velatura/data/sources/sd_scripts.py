"""`[[data]] kind = "sd-scripts"`: a dataset made for sd-scripts, as tables of our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from velatura.data.sources.record import Expansion
from velatura.data.sources.sd_scripts_file import place, read_dataset_file
from velatura.data.sources.sd_scripts_folders import expand_folders
from velatura.data.sources.sd_scripts_levels import Levels, levels_of
from velatura.data.sources.sd_scripts_tables import Paths, dataset_of, table_of
from velatura.recipe.data.items import SourceData
from velatura.recipe.data.sources.sd_scripts import SdScriptsData
from velatura.recipe.problems import Problem

_IDENTITY = ("image_dir", "metadata_file", "conditioning_data_dir")


def expand_sd_scripts(section: SdScriptsData, base: Path) -> Expansion:
    """One table for each subset of the dataset file, or for each folder.

    Raises DataError with all that is wrong in the file, or for folders without any of the right names.
    """
    return (
        expand_folders(section, base) if section.file is None else _expand_file(section.file, section, base)
    )


def _expand_file(name: str, section: SdScriptsData, base: Path) -> Expansion:
    file, origin = read_dataset_file(name, base / Path(name).expanduser())
    problems: list[Problem] = []
    notices: list[str] = []
    tables: list[SourceData] = []
    paths = Paths.of(section, base)
    for number, subsets in enumerate(levels_of(file, problems), start=1):
        kept = list(_kept(name, subsets, section, notices))
        if kept and all(levels.subset.is_reg for levels in kept):
            what = (
                "only regularisation images; they are used as often as the other images, and there are none"
            )
            problems.append(Problem(path=("datasets", number - 1), what=what))
        for levels in kept:
            dataset = dataset_of(section, f"{name}, [[datasets]] {number}")
            tables.append(table_of(levels, section, paths, dataset, problems))
            notices += _without_effect(name, levels)
    if problems:
        raise origin.refusal(problems)
    if not tables:
        raise origin.refusal(
            [Problem(path=("datasets",), what="no subset is left that has images to train on")]
        )
    return Expansion(sections=tables, notices=tuple(dict.fromkeys(notices)))


def _kept(
    name: str, subsets: Sequence[Levels], section: SdScriptsData, notices: list[str]
) -> Iterator[Levels]:
    """The subsets that are used: each folder or metadata file once in a dataset, and not those of no repeats."""
    seen: dict[tuple[str | None, ...], Levels] = {}
    for levels in subsets:
        where = f"'{name}', {place(levels.at)}"
        repeats = levels.get("num_repeats")
        identity = tuple(getattr(levels.subset, key) for key in _IDENTITY)
        if repeats is not None and repeats < 1:
            notices.append(f"{where} has num_repeats = {repeats} and is left out.")
        elif identity in seen:
            notices.append(f"{where} names the same images as {place(seen[identity].at)} and is left out.")
        else:
            seen[identity] = levels
            yield levels


def _without_effect(name: str, levels: Levels) -> Iterator[str]:
    """Keys that are accepted and change nothing, each once."""
    said = f"'{name}', {{}} has no effect: {{}}."
    if levels.get("cache_info"):
        yield said.format("cache_info", "what a scan finds is remembered in any case")
    if levels.get("network_multiplier") is not None:
        yield said.format("network_multiplier", "sd-scripts reads it and does nothing with it either")
    if names := sorted(levels.get("custom_attributes") or {}):
        yield said.format(f"custom_attributes ({', '.join(names)})", "nothing reads them")
    if levels.style == "fine-tuning":
        for key in ("class_tokens", "caption_extension"):
            if levels.get(key) is not None:
                yield said.format(f"{key} for a metadata_file", "captions are in that file")
