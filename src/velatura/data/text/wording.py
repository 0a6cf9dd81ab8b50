"""From a caption as it is written down to the text of one use: wildcards, tags in another order, tags left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from velatura.data.text.captions import Caption
from velatura.data.text.tags import Tags, shuffled, split_tags, split_text
from velatura.data.text.wildcards import choose, varies
from velatura.recipe.data.captions import Captioning


@dataclass(frozen=True, kw_only=True, slots=True)
class Wording:
    """How captions become texts; the fields are those of `Captioning`, which says what they mean."""

    trigger: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    dropout: float | None = None
    dropout_every: int = 0
    wildcards: bool = False
    first_line: bool = False
    separator: str = ","
    shuffle: bool = False
    keep: int = 0
    keep_separator: str | None = None
    secondary_separator: str | None = None
    tag_dropout: float = 0.0
    warmup_steps: float = 0  # below 1: a share of the run's steps
    warmup_min: int = 1
    max_length: int | None = None
    variants: int | None = None

    @classmethod
    def of(cls, section: Captioning) -> Wording:
        """What a `[[data]]` table says."""
        return cls(
            trigger=section.trigger,
            prefix=section.caption_prefix,
            suffix=section.caption_suffix,
            dropout=section.caption_dropout,
            dropout_every=section.caption_dropout_every,
            wildcards=section.wildcards,
            first_line=section.caption_lines == "first",
            separator=section.tag_separator,
            shuffle=section.shuffle_tags,
            keep=section.keep_tags,
            keep_separator=section.keep_tags_separator,
            secondary_separator=section.secondary_separator,
            tag_dropout=section.tag_dropout,
            warmup_steps=section.tag_warmup_steps,
            warmup_min=section.tag_warmup_min,
            max_length=section.max_caption_length,
            variants=section.caption_variants,
        )

    @property
    def moves_tags(self) -> bool:
        """Whether the tags of a caption differ from use to use."""
        return self.shuffle or self.tag_dropout > 0 or self.warmup_steps > 0

    @property
    def changes_by(self) -> tuple[str, ...]:
        """The recipe's keys that make texts differ from use to use."""
        keys = {
            "wildcards": self.wildcards,
            "shuffle_tags": self.shuffle,
            "tag_dropout": self.tag_dropout,
            "tag_warmup_steps": self.warmup_steps,
        }
        return tuple(key for key, value in keys.items() if value)


def is_fixed(caption: Caption, wording: Wording) -> bool:
    """True when every use of the caption has the same text (dropped captions apart)."""
    lines = _lines(caption, wording)
    if wording.wildcards and (len(lines) > 1 or _varies(lines[0], caption, wording)):
        return False
    if not wording.moves_tags:
        return True
    moving = len(_tags(_chosen(lines[0], wording, None), caption, wording, None).moving)
    return moving == 0 or (moving == 1 and not wording.tag_dropout and not wording.warmup_steps)


def text_of(
    caption: Caption,
    wording: Wording,
    chance: np.random.Generator | None = None,
    *,
    step: int | None = None,
) -> str:
    """The text of one use. Without `chance`: of a caption that `is_fixed`, or a typical one for display.

    `step` counts for the warm-up of tags; None is after it.
    """
    text = _chosen(_pick(_lines(caption, wording), chance), wording, chance)
    limit, mark = _limit(caption, wording), wording.keep_separator
    too_long, marked = limit is not None and len(text) > limit, mark is not None and mark in text
    if wording.moves_tags or caption.tags or marked or too_long:
        tags = _arranged(_tags(text, caption, wording, chance), wording, chance, step)
        text = tags.joined(wording.separator, limit)
    if wording.secondary_separator:
        text = text.replace(wording.secondary_separator, wording.separator)
    return text


def with_trigger(trigger: str | None, caption: str) -> str:
    """`trigger, caption`; a caption that begins with the trigger word stays as it is."""
    if not trigger or caption == trigger:
        return caption or (trigger or "")
    if caption.startswith(trigger) and not caption[len(trigger)].isalnum():
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def _lines(caption: Caption, wording: Wording) -> list[str]:
    """The lines of a caption of which a use has one, each with trigger, prefix and suffix.

    Where tags come after the text, the suffix comes after the tags.
    """
    suffix = None if caption.tags else wording.suffix
    lines = caption.text.split("\n")
    if not wording.wildcards:
        lines = lines[:1] if wording.first_line else [" ".join(lines)]
    return [
        " ".join(part for part in (wording.prefix, with_trigger(wording.trigger, line), suffix) if part)
        for line in lines
    ]


def _varies(line: str, caption: Caption, wording: Wording) -> bool:
    apart = [*(tag for tag, _ in caption.tags), wording.suffix or ""]
    return any(varies(text) for text in (line, *apart))


def _chosen(text: str, wording: Wording, chance: np.random.Generator | None) -> str:
    """One word of each `{a|b}` of a line."""
    return " ".join(choose(text, partial(_pick, chance=chance)).split()) if wording.wildcards else text


def _pick(words: Sequence[str], chance: np.random.Generator | None) -> str:
    return words[0 if chance is None else int(chance.integers(len(words)))]


def _tags(text: str, caption: Caption, wording: Wording, chance: np.random.Generator | None) -> Tags:
    """The tags of a chosen text in its own order. Of a caption that knows its tags apart, the text is fixed."""
    mark, separator = wording.keep_separator, wording.separator
    if not caption.tags:
        lead = " ".join(part for part in (wording.prefix, wording.trigger) if part) if wording.trigger else ""
        keep = max(wording.keep, len(split_text(lead, separator)))
        return split_tags(text, separator=separator, keep=keep, mark=mark)
    head = split_text(text.replace(mark, separator) if mark else text, separator)
    tags = [(_chosen(" ".join(tag.split()), wording, chance), weight) for tag, weight in caption.tags]
    tags = sorted(((tag, weight) for tag, weight in tags if tag), key=lambda tag: -tag[1])
    kept = [tag for tag, _ in tags[: wording.keep]]
    tail = split_text(_chosen(wording.suffix or "", wording, chance), separator)
    return Tags(head=(*head, *kept), moving=tuple(tags[wording.keep :]), tail=tuple(tail))


def _arranged(tags: Tags, wording: Wording, chance: np.random.Generator | None, step: int | None) -> Tags:
    """The tags in the order of this use, without those that are left out."""
    moving = list(tags.moving)
    if step is not None and step < wording.warmup_steps:
        grown = int(step * (len(moving) - wording.warmup_min) // wording.warmup_steps) + wording.warmup_min
        moving = moving[: max(grown, 0)]
    if chance is not None and wording.shuffle:
        moving = shuffled(moving, chance)
    if chance is not None and wording.tag_dropout:
        stays = chance.random(len(moving)) >= wording.tag_dropout
        moving = [tag for tag, kept in zip(moving, stays, strict=True) if kept]
    return replace(tags, moving=tuple(moving))


def _limit(caption: Caption, wording: Wording) -> int | None:
    limits = [limit for limit in (caption.max_length, wording.max_length) if limit is not None]
    return min(limits, default=None)
