"""From a caption as it is written down to the text of one use: wildcards, tags in another order, tags left out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from velatura.data.captions import Caption
from velatura.draws import Draw
from velatura.recipe.data.captions import Captioning

_CHOICE = re.compile(r"\{([^{}|]*(?:\|[^{}|]*)+)\}")
_OPEN, _CLOSE = "\ue000", "\ue001"  # stand for {{ and }}, which are plain braces


@dataclass(frozen=True, kw_only=True, slots=True)
class Wording:
    """How captions become texts; the fields are those of `Captioning`, which says what they mean."""

    trigger: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    dropout: float | None = None
    dropout_every: int = 0
    wildcards: bool = False
    separator: str = ","
    shuffle: bool = False
    keep: int = 0
    keep_separator: str | None = None
    secondary_separator: str | None = None
    tag_dropout: float = 0.0
    warmup_steps: int = 0
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


def is_fixed(caption: Caption, wording: Wording) -> bool:
    """True when every use of the caption has the same text (dropped captions apart)."""
    changing = wording.moves_tags and len(_tags(_whole(caption, wording), wording)[1]) > 0
    if wording.wildcards:
        changing |= "\n" in caption.text or bool(_CHOICE.search(_protect(_whole(caption, wording))))
    return not changing


def text_of(
    caption: Caption, wording: Wording, chance: np.random.Generator | None = None, *, step: int = 0
) -> str:
    """The text of one use. Without `chance`: of a caption that `is_fixed`, or a typical one for display."""
    text = _whole(caption, wording)
    text = _choose(text, chance) if wording.wildcards else " ".join(text.split("\n"))
    if wording.moves_tags or caption.tags or _limit(caption, wording) is not None:
        text = _arrange(text, caption, wording, chance, step)
    if wording.secondary_separator:
        text = text.replace(wording.secondary_separator, wording.separator)
    return text


def possible_texts(caption: Caption, wording: Wording) -> list[str] | None:
    """Every text that the uses of a caption can have, the empty one apart; None when they cannot be listed."""
    if is_fixed(caption, wording):
        return [text_of(caption, wording)]
    if wording.variants is None or wording.warmup_steps:
        return None
    return [_variant(caption, wording, number) for number in range(wording.variants)]


def drops(wording: Wording, default: float) -> bool:
    """Whether some uses have an empty text."""
    return wording.dropout_every > 0 or (default if wording.dropout is None else wording.dropout) > 0


def drawn_texts(
    captions: Sequence[tuple[Caption, Wording, int]], draw: Draw, *, dropout: float, cached: bool
) -> list[str]:
    """The texts of the slots of a step, from (caption, wording, epoch) each; epochs count from 0.

    `dropout` is the share of empty texts where the wording names none. With `cached`, texts are among those
    that `possible_texts` lists.
    """
    chances = draw.uniform("caption dropout").tolist()
    generators = draw.generators("caption")
    texts = []
    for (caption, wording, epoch), chance, generator in zip(captions, chances, generators, strict=True):
        share = dropout if wording.dropout is None else wording.dropout
        every = wording.dropout_every
        if chance < share or (every and (epoch + 1) % every == 0):
            texts.append("")
        elif is_fixed(caption, wording):
            texts.append(text_of(caption, wording))
        elif cached and wording.variants is not None:
            texts.append(_variant(caption, wording, int(generator.integers(wording.variants))))
        else:
            texts.append(text_of(caption, wording, generator, step=draw.step))
    return texts


def with_trigger(trigger: str | None, caption: str) -> str:
    """`trigger, caption`; a caption that begins with the trigger word stays as it is."""
    if not trigger or caption == trigger:
        return caption or (trigger or "")
    if caption.startswith(trigger) and not caption[len(trigger)].isalnum():
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def _variant(caption: Caption, wording: Wording, number: int) -> str:
    """One of the texts that are drawn ahead: it depends on the caption and its number alone."""
    identity = f"{caption.text}/{caption.tags}".encode()
    seed = int.from_bytes(hashlib.blake2b(identity, digest_size=7).digest(), "little")
    chance = Draw.of(seed, step=number).generators("variant")[0]
    return text_of(caption, wording, chance, step=wording.warmup_steps)


def _whole(caption: Caption, wording: Wording) -> str:
    """The caption's text with its trigger, prefix and suffix; each of several lines gets them."""
    lines = caption.text.split("\n") if wording.wildcards else [" ".join(caption.text.split("\n"))]
    return "\n".join(
        " ".join(
            part for part in (wording.prefix, with_trigger(wording.trigger, line), wording.suffix) if part
        )
        for line in lines
    )


def _protect(text: str) -> str:
    return text.replace("{{", _OPEN).replace("}}", _CLOSE)


def _choose(text: str, chance: np.random.Generator | None) -> str:
    """One of several lines, and one word of each `{a|b}`."""
    text = _protect(_pick(text.split("\n"), chance))
    while found := _CHOICE.search(text):  # from the inside out, so that choices can be nested
        text = text[: found.start()] + _pick(found[1].split("|"), chance) + text[found.end() :]
    return text.replace(_OPEN, "{").replace(_CLOSE, "}")


def _pick(words: Sequence[str], chance: np.random.Generator | None) -> str:
    return words[0 if chance is None else int(chance.integers(len(words)))]


def _tags(text: str, wording: Wording) -> tuple[list[str], list[str], list[str]]:
    """The tags of a text: fixed ones, those that may move, fixed ones at the end."""

    def split(part: str) -> list[str]:
        return [tag for tag in (tag.strip() for tag in part.split(wording.separator)) if tag]

    mark = wording.keep_separator
    if mark and mark in text:
        head, rest = text.split(mark, 1)
        flexible, _, tail = rest.partition(mark)
        return split(head), split(flexible), split(tail)
    tags = split(text)
    return tags[: wording.keep], tags[wording.keep :], []


def _arrange(
    text: str, caption: Caption, wording: Wording, chance: np.random.Generator | None, step: int
) -> str:
    """The tags in the order of this use, without those that are left out."""
    head, flexible, tail = _tags(text, wording)
    if wording.warmup_steps and step < wording.warmup_steps:
        grown = step * (len(flexible) - wording.warmup_min) // wording.warmup_steps + wording.warmup_min
        flexible = flexible[: max(grown, 0)]
    weighted = [(tag, 1.0) for tag in flexible] + list(caption.tags)
    if chance is not None and wording.shuffle:
        weighted = _shuffled(weighted, chance)
    elif caption.tags:
        weighted = sorted(weighted, key=lambda tag: -tag[1])
    if chance is not None and wording.tag_dropout:
        kept = chance.random(len(weighted)) >= wording.tag_dropout
        weighted = [tag for tag, stays in zip(weighted, kept, strict=True) if stays]
    moving, limit = [tag for tag, _ in weighted], _limit(caption, wording)
    joined = f"{wording.separator} ".join([*head, *moving, *tail])
    while limit is not None and len(joined) > limit and moving:
        moving.pop()
        joined = f"{wording.separator} ".join([*head, *moving, *tail])
    return joined


def _shuffled(tags: Sequence[tuple[str, float]], chance: np.random.Generator) -> list[tuple[str, float]]:
    """All tags in random order; a heavy tag tends to come early (drawn one by one, in proportion to weight)."""
    keys = [chance.exponential() / max(weight, 1e-9) for _, weight in tags]
    return [tag for _, tag in sorted(zip(keys, tags, strict=True), key=lambda pair: pair[0])]


def _limit(caption: Caption, wording: Wording) -> int | None:
    limits = [limit for limit in (caption.max_length, wording.max_length) if limit is not None]
    return min(limits, default=None)
