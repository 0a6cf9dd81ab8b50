"""Captions as training will word them, and as the text encoders will count them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from velatura.data.items import Item
from velatura.data.text.texts import drawn_texts
from velatura.data.text.wording import is_fixed, text_of
from velatura.draws import Draw

_DRAWS = 3  # of a caption that changes from use to use
TokenCounter = Callable[[str], tuple["TokenCount", ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCount:
    """How one text encoder counts a text."""

    encoder: str
    tokens: int  # with the marks at its ends, uncut
    read: int  # the most that the encoder reads


@dataclass(frozen=True, kw_only=True, slots=True)
class Worded:
    """The texts of one item."""

    texts: tuple[str, ...]  # a typical one, then some draws where they differ
    tokens: tuple[TokenCount, ...] = ()  # of the longest of them; none where there are no tokenizers
    empty: bool = False  # nothing is written down for it

    @property
    def cut(self) -> bool:
        """No encoder reads it to its end."""
        return bool(self.tokens) and all(count.tokens > count.read for count in self.tokens)


def word(items: Sequence[Item], counter: TokenCounter | None, seed: int) -> list[Worded]:
    """The texts of each item; those of equal captions are counted once."""
    counted: dict[str, tuple[TokenCount, ...]] = {}
    found = []
    for i, item in enumerate(items):
        texts = _texts(item, i, seed)
        longest = max(texts, key=len)
        if counter is not None and longest not in counted:
            counted[longest] = counter(longest)
        empty = not item.caption.text and not item.caption.tags
        found.append(Worded(texts=texts, tokens=counted.get(longest, ()), empty=empty))
    return found


def tag_counts(items: Sequence[Item]) -> Counter[str]:
    """How many items have each tag: what stands between the separators of its caption, most frequent first."""
    counts: Counter[str] = Counter()
    for item in items:
        separator = item.treatment.wording.separator
        tags = [tag.strip() for tag in item.caption.text.replace("\n", separator).split(separator)]
        counts.update({*tags, *(tag for tag, _ in item.caption.tags)} - {""})
    return counts


def _texts(item: Item, position: int, seed: int) -> tuple[str, ...]:
    caption, wording = item.caption, item.treatment.wording
    texts = [text_of(caption, wording)]
    if not is_fixed(caption, wording):
        for step in range(_DRAWS):
            draw = Draw.of(seed, step=math.ceil(wording.warmup_steps) + step, slots=[position])
            texts += drawn_texts([(caption, wording, 0)], draw, dropout=0.0, cached=True)
    return tuple(dict.fromkeys(texts))
