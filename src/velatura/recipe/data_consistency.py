"""Keys of `[[data]]` tables that must go together, and keys that would do nothing where a user counts on them.

A key counts as given when it differs from its default: a resolved recipe names them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from velatura.recipe.data.items import SourceData
from velatura.recipe.problems import Problem

_Found = Iterator[tuple[str, str, str]]  # key, what, hint


def data_problems(sections: Sequence[SourceData]) -> Iterator[Problem]:
    """All that does not go together in and among the `[[data]]` tables."""
    for index, section in enumerate(sections):
        for check in _CHECKS:
            for key, what, hint in check(section):
                yield Problem(path=("data", index, key), what=what, hint=hint)
    if all(section.regularisation for section in sections):
        what = "every table is of regularisation images; they are used as often as all others, and there are none"
        yield Problem(path=("data", 0, "regularisation"), what=what)


def _bucket_sizes(section: SourceData) -> _Found:
    if not section.buckets:
        return
    key = "resolution" if section.size is None else "size"
    given = getattr(section, key)
    edges = [given] if isinstance(given, int) else given
    low, high = min(edges), max(edges)
    shown = f"size = {given}" if key == "size" else "resolution = {}"
    for name, fits, limit, edge in (
        ("bucket_min", "at most", low, section.bucket_min),
        ("bucket_step", "at most", low, section.bucket_step),
        ("bucket_max", "at least", high, section.bucket_max),
    ):
        if edge is not None and (edge > limit if fits == "at most" else edge < limit):
            yield name, f"received {edge} with {shown.format(limit)}; allowed: {fits} {limit}", ""


def _buckets_off(section: SourceData) -> _Found:
    if section.buckets:
        return
    if section.upscale == "own size":
        yield "upscale", 'received "own size", and there are no buckets of own sizes with buckets = false', ""
    for key in ("bucket_step", "bucket_min", "bucket_max"):
        if getattr(section, key) is not None:
            yield (
                key,
                "there are no buckets: buckets = false crops all images to squares",
                "leave one of them out",
            )


def _tags(section: SourceData) -> _Found:
    moving = section.shuffle_tags or section.tag_dropout or section.tag_warmup_steps
    if section.keep_tags_separator is not None and not (moving or section.max_caption_length):
        what = "no tags move, so that it would stay in the captions as it is"
        yield (
            "keep_tags_separator",
            what,
            "it needs shuffle_tags, tag_dropout, tag_warmup_steps or max_caption_length",
        )
    if _changed(section, "tag_warmup_min") and not section.tag_warmup_steps:
        yield "tag_warmup_min", "there is no warm-up of tags without tag_warmup_steps", ""
    if section.caption_variants and section.tag_warmup_steps:
        what = "texts of a tag warm-up differ from step to step and cannot be drawn ahead"
        yield "caption_variants", what, "leave out caption_variants or tag_warmup_steps"


def _crops(section: SourceData) -> _Found:
    if _changed(section, "crops") and section.crop != "random":
        yield (
            "crops",
            f'received {section.crops} with crop = "{section.crop}"',
            'random crops need crop = "random"',
        )


def _masks(section: SourceData) -> _Found:
    masks = next(
        (key for key in ("masks", "mask_column", "mask_member") if getattr(section, key, None)), None
    )
    if section.alpha == "mask" and masks:
        yield "alpha", f"received masks twice: from the images' transparency and from {masks}", "choose one"


def _changed(section: SourceData, key: str) -> bool:
    return bool(getattr(section, key) != type(section).model_fields[key].default)


_CHECKS: tuple[Callable[[SourceData], _Found], ...] = (_bucket_sizes, _buckets_off, _tags, _crops, _masks)
