"""A subset of a dataset file of sd-scripts as a `[[data]]` table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from velatura.data.sources.sd_scripts_levels import Levels
from velatura.recipe.data.items import SourceData
from velatura.recipe.data.sources.folder import FolderData
from velatura.recipe.data.sources.sd_scripts import MetadataData, SdScriptsData
from velatura.recipe.problems import Problem

FLIPS, RECOLOURS = 0.5, 0.33  # probabilities of flip_aug and color_aug
_STEP, _SHORTEST, _LONGEST = 64, 256, 1024  # bucket_reso_steps, min_bucket_reso, max_bucket_reso

# their keys that mean what keys of ours mean
_SAME = {
    "num_repeats": "repeats",
    "batch_size": "batch_size",
    "validation_split": "validation_share",
    "validation_seed": "validation_seed",
    "caption_prefix": "caption_prefix",
    "caption_suffix": "caption_suffix",
    "caption_separator": "tag_separator",
    "enable_wildcard": "wildcards",
    "shuffle_caption": "shuffle_tags",
    "keep_tokens": "keep_tags",
    "keep_tokens_separator": "keep_tags_separator",
    "secondary_separator": "secondary_separator",
    "caption_dropout_rate": "caption_dropout",
    "caption_dropout_every_n_epochs": "caption_dropout_every",
    "caption_tag_dropout_rate": "tag_dropout",
    "token_warmup_min": "tag_warmup_min",
    "token_warmup_step": "tag_warmup_steps",
}
# their keys whose values we write in another way
_VALUES: Mapping[str, tuple[str, Mapping[Any, Any]]] = {
    "flip_aug": ("flip", {True: FLIPS, False: 0.0}),
    "color_aug": ("colour", {True: RECOLOURS, False: 0.0}),
    "random_crop": ("crop", {True: "random", False: "centre"}),
    "alpha_mask": ("alpha", {True: "mask", False: "background"}),
    "resize_interpolation": (
        "resize",
        {
            "lanczos": "lanczos",
            "nearest": "nearest",
            "bilinear": "bilinear",
            "linear": "bilinear",
            "bicubic": "bicubic",
            "cubic": "bicubic",
            "area": "area",
            "box": "box",
        },
    ),
}


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Where the paths in a dataset file start."""

    folder: Path  # as the recipe's author would write it: relative to `base`, or absolute
    base: Path

    @classmethod
    def of(cls, section: SdScriptsData, base: Path) -> Paths:
        """As the recipe says, else the file's own folder."""
        given = Path(section.file or "").parent if section.folder is None else Path(section.folder)
        return cls(folder=given.expanduser(), base=base)

    def named(self, text: str) -> str:
        """A path of the file as the recipe would name it."""
        return str(self.folder / Path(text).expanduser())

    def real(self, text: str) -> Path:
        """The same on this machine."""
        return self.base / self.named(text)


def shared_keys(section: SdScriptsData) -> dict[str, Any]:
    """What the recipe says about all images: it counts where the file says nothing."""
    shared = {name: getattr(section, name) for name in SourceData.model_fields if name != "kind"}
    return {**shared, "caption_lines": "first"}


def dataset_of(section: SdScriptsData, name: str) -> str:
    """The `dataset` of a table: apart from all others, unless the recipe puts it among them."""
    return section.dataset if section.dataset or section.regularisation else name


def table_of(
    levels: Levels, section: SdScriptsData, paths: Paths, dataset: str, problems: list[Problem]
) -> SourceData:
    """The table that does what the subset says; what is not possible is added to `problems`."""
    _refuse(levels, paths, problems)
    values = shared_keys(section) | {"dataset": dataset} | _taken_over(levels)
    values |= _sizes(levels, section, problems)
    if levels.subset.is_reg:
        values |= {"regularisation": True, "weight": section.weight * section.prior_loss_weight}
    if levels.style == "fine-tuning":
        return MetadataData(**values, outside=section.outside, **_metadata(levels, paths))
    return FolderData(**values, **_folders(levels, section, paths))


def _taken_over(levels: Levels) -> dict[str, Any]:
    values = {ours: levels.get(theirs) for theirs, ours in _SAME.items()}
    values |= {
        ours: meanings[levels.get(theirs)]
        for theirs, (ours, meanings) in _VALUES.items()
        if levels.get(theirs) is not None
    }
    given = {ours: value for ours, value in values.items() if value is not None}
    return {ours: None if value == "" else value for ours, value in given.items()}


def _sizes(levels: Levels, section: SdScriptsData, problems: list[Problem]) -> dict[str, Any]:
    """Resolution and buckets. There is no limit to the ratio of images that keep their own size."""
    values = _resolution(levels, section, problems)
    enabled = levels.get("enable_bucket")
    values["buckets"] = section.buckets if enabled is None else enabled
    if not values["buckets"]:
        return values | {"bucket_step": None, "bucket_min": None, "bucket_max": None, "upscale": True}
    step = levels.get("bucket_reso_steps") or section.bucket_step or _STEP
    values["bucket_step"] = step
    no_upscale = levels.get("bucket_no_upscale")
    if no_upscale is not None:
        values["upscale"] = "own size" if no_upscale else True
    if values.get("upscale", section.upscale) == "own size":
        return values | {"bucket_min": None, "bucket_max": None}
    low = levels.get("min_bucket_reso") or section.bucket_min or _SHORTEST
    high = levels.get("max_bucket_reso") or section.bucket_max or _LONGEST
    _check_limits(levels, section, values["size"] or values["resolution"], low, high, problems)
    return values | {"bucket_min": max(low // step * step, 16), "bucket_max": -(-high // step) * step}


def _resolution(levels: Levels, section: SdScriptsData, problems: list[Problem]) -> dict[str, Any]:
    given = levels.get("resolution")
    if given is None:
        if section.size is None and "resolution" not in section.model_fields_set:
            what = "no resolution, neither here nor in [general]; with sd-scripts it was given on the command line"
            hint = "add it here, or as resolution to the recipe's [[data]] table"
            problems.append(Problem(path=(*levels.at[:2], "resolution"), what=what, hint=hint))
        return {"resolution": section.resolution, "size": section.size}
    if isinstance(given, int) or given[0] == given[1]:
        return {"resolution": given if isinstance(given, int) else given[0], "size": None}
    return {"resolution": section.resolution, "size": given}


def _check_limits(
    levels: Levels,
    section: SdScriptsData,
    given: int | list[int],
    low: int,
    high: int,
    problems: list[Problem],
) -> None:
    edges = [given] if isinstance(given, int) else given
    shortest = _limit(levels, "min_bucket_reso", section.bucket_min, "bucket_min", low)
    longest = _limit(levels, "max_bucket_reso", section.bucket_max, "bucket_max", high)
    if low > min(edges):
        what = f"{shortest} with resolution = {given}; allowed: at most {min(edges)}"
        problems.append(Problem(path=levels.path("min_bucket_reso"), what=what))
    if high < max(edges):
        what = f"{longest} with resolution = {given}; allowed: at least {max(edges)}"
        problems.append(Problem(path=levels.path("max_bucket_reso"), what=what))


def _limit(levels: Levels, key: str, own: int | None, own_key: str, value: int) -> str:
    """What was received as the limit of an edge, and where it comes from."""
    if levels.get(key):
        return f"received {value}"
    if own is not None:
        return f"received none, and {own_key} = {value} in the recipe,"
    return f"received none, and the default is {value},"


def _folders(levels: Levels, section: SdScriptsData, paths: Paths) -> dict[str, Any]:
    subset = levels.subset
    extension = levels.get("caption_extension") or section.caption_extension
    values = {
        "folder": paths.named(str(subset.image_dir)),
        "caption": levels.get("class_tokens"),
        "caption_extension": extension if extension.startswith(".") else f".{extension}",
    }
    if subset.conditioning_data_dir is not None:
        values["masks" if section.masked_loss else "controls"] = paths.named(subset.conditioning_data_dir)
    return values


def _metadata(levels: Levels, paths: Paths) -> dict[str, Any]:
    subset = levels.subset
    return {
        "file": paths.named(str(subset.metadata_file)),
        "folder": str(paths.folder) if subset.image_dir is None else paths.named(subset.image_dir),
        "image_column": "image_path",
        "caption_column": "caption",
        "tags_column": "tags",
    }


def _refuse(levels: Levels, paths: Paths, problems: list[Problem]) -> None:
    """What cannot be done, and folders and files that are not there."""
    if levels.get("face_crop_aug_range") is not None:
        what = "crops around faces are not supported; they need the face's place in the names of the images"
        hint = "leave it out; random_crop cuts out parts at random"
        problems.append(Problem(path=levels.path("face_crop_aug_range"), what=what, hint=hint))
    if (levels.get("custom_attributes") or {}).get("diff_output_preservation"):
        what = "diff_output_preservation is not supported: these images would be trained as all others"
        hint = "leave it out, or use such images with is_reg = true"
        problems.append(Problem(path=levels.path("custom_attributes"), what=what, hint=hint))
    file = levels.subset.metadata_file
    if file is not None and not file.lower().endswith((".json", ".jsonl")):
        what = f'received the text "{file}"; allowed: a file that ends in .json or .jsonl'
        problems.append(Problem(path=(*levels.at, "metadata_file"), what=what))
    elif file is not None and not paths.real(file).is_file():
        problems.append(_missing(levels, "metadata_file", "file", paths.real(file)))
    for key in ("image_dir", "conditioning_data_dir"):
        folder = getattr(levels.subset, key)
        if folder is not None and not paths.real(folder).is_dir():
            problems.append(_missing(levels, key, "folder", paths.real(folder)))


def _missing(levels: Levels, key: str, kind: str, path: Path) -> Problem:
    what = f"is there, and no {kind}: {path}" if path.exists() else f"no such {kind}: {path.absolute()}"
    hint = "relative paths start at the dataset file's own folder, or where folder in the [[data]] table says"
    return Problem(path=(*levels.at, key), what=what, hint=hint)
