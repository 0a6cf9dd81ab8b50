"""Which captions are cut, by which encoder."""

from __future__ import annotations

from typing import Any

import pytest

from velatura.data.token_cuts import encoder_names, remark_cuts, token_cuts
from velatura.errors import ModelError
from velatura.interfaces import Parts


class ShortTokenizer:
    pass


class LongTokenizerFast:
    pass


class Words:
    """A token per word; the first encoder reads 2, the second 4."""

    def token_counts(self, parts: Parts, text: str) -> tuple[tuple[int, int], ...]:
        count = len(text.split())
        return (count, 2), (count, 4)


@pytest.fixture
def parts(info: Any) -> Parts:
    return Parts(info=info, tokenizers=(ShortTokenizer(), LongTokenizerFast()))


def test_cuts_per_encoder(parts: Parts) -> None:
    found = token_cuts(Words(), parts, ["a b", "a b c", "a b c d e"])  # type: ignore[arg-type]
    assert [(cut.text, cut.encoder, cut.tokens, cut.read, cut.everywhere) for cut in found] == [
        ("a b c", "Short", 3, 2, False),
        ("a b c d e", "Short", 5, 2, True),
        ("a b c d e", "Long", 5, 4, True),
    ]


def test_what_is_said_of_them(parts: Parts, log: Any) -> None:
    texts = ["a b", "a b c", *(f"a b c d {i}" for i in range(5))]
    remark_cuts(token_cuts(Words(), parts, texts), log.events)  # type: ignore[arg-type]
    lost, partly = log.texts
    assert lost == (
        "5 captions are longer than the model reads and are cut: 'a b c d 0…' (5 tokens, Long reads 4); "
        "'a b c d 1…' (5 tokens, Long reads 4); 'a b c d 2…' (5 tokens, Long reads 4) and 2 more"
    )
    assert partly == (
        "1 captions are longer than Short reads, and another encoder reads them whole: "
        "'a b c…' (3 tokens, Short reads 2)"
    )
    assert [event.level for event in log.seen] == ["warning", "info"]


def test_names(parts: Parts) -> None:
    assert encoder_names([ShortTokenizer(), LongTokenizerFast()]) == ["Short", "Long"]
    assert encoder_names([ShortTokenizer(), ShortTokenizer()]) == ["Short 1", "Short 2"]
    with pytest.raises(ModelError, match="tokenizers are not loaded"):
        token_cuts(Words(), Parts(info=parts.info), ["a"])  # type: ignore[arg-type]
