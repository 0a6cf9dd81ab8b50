"""Captions that are longer than a text encoder reads: which, by which encoder, and how much is lost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from velatura.errors import ModelError
from velatura.events import Events
from velatura.interfaces import Family, Parts


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A text whose end one text encoder does not see."""

    text: str
    encoder: str  # "CLIP", "T5"
    tokens: int  # of the whole text, with the marks at its ends
    read: int  # the most that the encoder reads
    everywhere: bool  # no encoder reads the text to its end

    def __str__(self) -> str:
        return f"'{self.text[:60]}…' ({self.tokens} tokens, {self.encoder} reads {self.read})"


def token_cuts(family: Family, parts: Parts, texts: Iterable[str]) -> list[Cut]:
    """All cuts, in the order of the texts and of the encoders; of `parts`, only the tokenizers are used.

    Raises ModelError when they are not loaded.
    """
    if parts.tokenizers is None:
        raise ModelError("tokens cannot be counted: the tokenizers are not loaded.")
    names = encoder_names(parts.tokenizers)
    found = []
    for text in texts:
        counts = family.token_counts(parts, text)
        everywhere = all(tokens > read for tokens, read in counts)
        found += [
            Cut(text=text, encoder=name, tokens=tokens, read=read, everywhere=everywhere)
            for name, (tokens, read) in zip(names, counts, strict=True)
            if tokens > read
        ]
    return found


def encoder_names(tokenizers: Sequence[object]) -> list[str]:
    """What to call the encoders in messages, by the classes of their tokenizers: CLIP, T5."""
    names = [type(one).__name__.removesuffix("Fast").removesuffix("Tokenizer") for one in tokenizers]
    return [f"{name} {i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def remark_cuts(cuts: Sequence[Cut], events: Events) -> None:
    """Warn of captions whose end no encoder sees; say which others are cut by one encoder alone."""
    most = {cut.text: cut for cut in sorted(cuts, key=lambda cut: cut.read) if cut.everywhere}
    if most:
        events.warn(
            f"{len(most)} captions are longer than the model reads and are cut: {_listed(most.values())}"
        )
    by_encoder: dict[str, list[Cut]] = {}
    for cut in cuts:
        if not cut.everywhere:
            by_encoder.setdefault(cut.encoder, []).append(cut)
    for encoder, found in by_encoder.items():
        events.notice(
            f"{len(found)} captions are longer than {encoder} reads, and another encoder reads them whole: "
            f"{_listed(found)}"
        )


def _listed(cuts: Collection[Cut], shown: int = 3) -> str:
    more = f" and {len(cuts) - shown} more" if len(cuts) > shown else ""
    return "; ".join(map(str, islice(cuts, shown))) + more
