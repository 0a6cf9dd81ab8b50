"""What text encoders leave unread of a text that is longer than they read, and telling the user."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from velatura.errors import ModelError
from velatura.events import Events
from velatura.interfaces import Family, Parts
from velatura.plural import agreeing, counted

AT_ONCE = 1000  # texts that are tokenized together
LONGEST_WORD = 30  # characters; what is longer is no word: some languages write no spaces
SHOWN = 300  # characters of what is not read, where one text is told of
FEW, SHOWN_OF_FEW = 3, 60  # the same where there are more


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What one text encoder leaves unread of a text that has more tokens than it reads."""

    encoder: str  # "CLIP", "T5"
    tokens: int  # of the text, with the marks at its ends
    most: int  # that are read
    words: str  # that are not read, from the first one on of which a piece is missing


def encoder_names(parts: Parts) -> tuple[str, ...]:
    """The text encoders as people call them, by the classes of their tokenizers: CLIP, T5; two of a kind numbered."""
    names = [
        type(each).__name__.removesuffix("Fast").removesuffix("Tokenizer") for each in parts.tokenizers or ()
    ]
    return tuple(f"{name} {i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names))


def cuts(family: Family, parts: Parts, texts: Sequence[str]) -> list[tuple[Cut, ...]]:
    """Per text: a `Cut` of each text encoder that does not read it to its end. Needs no weights, only tokenizers."""
    tokenizers: tuple[Any, ...] | None = parts.tokenizers
    if tokenizers is None:
        raise ModelError("this needs the tokenizers, not loaded here")
    found: list[list[Cut]] = [[] for _ in texts]
    lengths = [most for _, most in family.token_counts(parts, "")]
    for name, tokenizer, most in zip(encoder_names(parts), tokenizers, lengths, strict=True):
        long = [number for number, text in enumerate(texts) if not _surely_short(text, most)]
        for start in range(0, len(long), AT_ONCE):
            chunk = long[start : start + AT_ONCE]
            rows = tokenizer([texts[number] for number in chunk], verbose=False).input_ids
            for number, row in zip(chunk, rows, strict=True):
                if len(row) > most:
                    words = _unread(tokenizer, texts[number], most)
                    found[number].append(Cut(encoder=name, tokens=len(row), most=most, words=words))
    return [tuple(of_text) for of_text in found]


def remark_cuts(family: Family, parts: Parts, texts: Mapping[str, str], events: Events, noun: str) -> None:
    """Tell, per text encoder, which of the named `texts` it does not read to their end, and what is lost of them.

    `noun` is what they are: "caption", "prompt". A warning where no other encoder reads them whole, else a notice.
    """
    different = list(dict.fromkeys(texts.values()))
    lost = dict(zip(different, cuts(family, parts, different), strict=True))
    encoders = encoder_names(parts)
    for encoder in encoders:
        mine = {name: cut for name, text in texts.items() for cut in lost[text] if cut.encoder == encoder}
        rescued = {name: cut for name, cut in mine.items() if len(lost[texts[name]]) < len(encoders)}
        gone = {name: cut for name, cut in mine.items() if name not in rescued}
        if rescued:
            blind = {cut.encoder for name in rescued for cut in lost[texts[name]]}
            others = [name for name in encoders if name not in blind] or ["another text encoder"]
            reading, them = agreeing(len(others), "reads", "read"), agreeing(len(rescued), "it", "them")
            line = _line(rescued, len(texts), noun)
            events.notice(f"{line}. {' and '.join(others)} {reading} {them} whole.")
        if gone:
            them = agreeing(len(gone), "it", "them")
            line = _line(gone, len(texts), noun)
            events.warn(f"{line}. No text encoder reads {them} whole: shorten {them}.")


def _line(cut: Mapping[str, Cut], of: int, noun: str) -> str:
    """What is lost of a text or two; of more, how many of how many there are and a few of them."""
    first = next(iter(cut.values()))
    head = f"too long for {first.encoder}, which reads {counted(first.most, 'token')}"
    if of <= 2:
        return f"{head}: {'; '.join(_told(name, each, SHOWN) for name, each in cut.items())}"
    few = "; ".join(_told(name, each, SHOWN_OF_FEW) for name, each in list(cut.items())[:FEW])
    more = f"; and {len(cut) - FEW:,} more" if len(cut) > FEW else ""
    return f"{head}: {len(cut):,} of {counted(of, noun)}: {few}{more}"


def _told(name: str, cut: Cut, shown: int) -> str:
    words = cut.words if len(cut.words) <= shown else f"{cut.words[: shown - 1]}…"
    return f'{name} ({counted(cut.tokens, "token")}; not read: "{words}")'


def _surely_short(text: str, most: int) -> bool:
    """An ASCII text has at most one token per character, one for the space that T5 puts before it, and its marks."""
    return text.isascii() and len(text) + 2 <= most


def _unread(tokenizer: Any, text: str, most: int) -> str:
    """The words of a text behind its first `most` tokens; a word that is read in part counts as unread."""
    encoded = tokenizer(text, max_length=most, truncation=True, return_offsets_mapping=True)
    end = max(stop for _, stop in encoded.offset_mapping)
    whole = next((word for word in re.finditer(r"\S+", text) if word.start() < end < word.end()), None)
    if whole is not None and len(whole[0]) <= LONGEST_WORD:
        end = whole.start()
    return text[end:].strip()
