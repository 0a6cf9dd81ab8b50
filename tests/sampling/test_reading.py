"""What text encoders leave unread of a text, and how the user hears of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from velatura.errors import ModelError
from velatura.events import Notice
from velatura.families.registry import family_for, files_of
from velatura.interfaces import Family, Parts
from velatura.recipe.families.flux import FluxModel
from velatura.recipe.families.sd1 import Sd1Model
from velatura.sampling.reading import Cut, cuts, encoder_names, remark_cuts

from ..families import models
from ..tiny import Log

META = torch.device("meta")
MOST = 28  # tokens that both encoders of the pocket FLUX read; "cube" is one for both


def sketched(section: FluxModel | Sd1Model) -> tuple[Family, Parts]:
    """The text encoders without weights, and their tokenizers."""
    family = family_for(section)
    files = files_of(section, Path.cwd())
    return family, family.load(files, ["text_encoders"], device=META, dtype=torch.float32)


@pytest.fixture(scope="module")
def pocket() -> tuple[Family, Parts]:
    return sketched(FluxModel(model="pocket/flux"))


def cubes(count: int) -> str:
    return " ".join(["cube"] * count)


def test_marks_count_and_words_are_counted_out(pocket: tuple[Family, Parts]) -> None:
    """CLIP marks both ends of a text, T5 one."""
    assert encoder_names(pocket[1]) == ("CLIP", "T5")
    assert cuts(*pocket, ["a red cube", cubes(26), cubes(27), cubes(30)]) == [
        (),
        (),
        (Cut(encoder="CLIP", tokens=29, most=MOST, words="cube"),),
        (
            Cut(encoder="CLIP", tokens=32, most=MOST, words=cubes(4)),
            Cut(encoder="T5", tokens=31, most=MOST, words=cubes(3)),
        ),
    ]


def test_what_is_read_and_what_not_make_up_the_text(pocket: tuple[Family, Parts]) -> None:
    """The words before the cut fit, and with the first word behind it they do not."""
    family, parts = pocket
    text = (
        ", ".join(
            f"a {size} {colour} cube at dusk" for size in ("large", "tiny") for colour in ("red", "mauve")
        )
        * 2
    )
    (found,) = cuts(family, parts, [text])
    for index, cut in enumerate(found):
        read = text.removesuffix(cut.words).rstrip()
        assert read + " " + cut.words == text
        counts = [
            family.token_counts(parts, t)[index][0] for t in (text, read, f"{read} {cut.words.split()[0]}")
        ]
        assert counts[0] == cut.tokens
        assert counts[1] <= MOST < counts[2]


def test_a_word_that_is_read_in_part_counts_as_unread(pocket: tuple[Family, Parts]) -> None:
    (found,) = cuts(*pocket, [f"{cubes(24)} xylophones at night"])
    assert {cut.words for cut in found} == {"xylophones at night"}


def test_a_language_without_spaces_is_cut_where_it_is_cut(pocket: tuple[Family, Parts]) -> None:
    text = "赤い立方体" * 20
    (found,) = cuts(*pocket, [text])  # T5 has one piece for all that it does not know
    (cut,) = found
    assert cut.encoder == "CLIP"
    assert 0 < len(cut.words) < len(text)
    assert text.endswith(cut.words)


def test_many_texts_and_none(pocket: tuple[Family, Parts], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("velatura.sampling.reading.AT_ONCE", 2)
    texts = [cubes(count) for count in (1, 40, 2, 3, 50, 4, 60)]
    assert [len(found) for found in cuts(*pocket, texts)] == [0, 2, 0, 0, 2, 0, 2]
    assert cuts(*pocket, []) == []


@pytest.mark.parametrize(
    "text", ["a" * 26, "?" * 26, "a b c d e f g h i j k l m", " " * 26, "A.B,C!D?E;F:G-H'I(J)K[L]{M"]
)
def test_short_texts_are_not_tokenized_and_would_not_be_cut(pocket: tuple[Family, Parts], text: str) -> None:
    family, parts = pocket
    assert len(text) <= MOST - 2
    assert all(count <= most for count, most in family.token_counts(parts, text))
    assert cuts(family, parts, [text]) == [()]


def test_the_text_length_of_the_recipe_counts() -> None:
    (found,) = cuts(*sketched(FluxModel(model="pocket/flux", text_length=10)), [cubes(12)])
    assert found == (Cut(encoder="T5", tokens=13, most=10, words=cubes(3)),)


def test_one_encoder(tmp_path: Path) -> None:
    family, parts = sketched(Sd1Model(model=str(models.sd1_folder(tmp_path / "sd1"))))
    most = family.token_counts(parts, "")[0][1]
    (found,) = cuts(family, parts, [cubes(most)])
    assert found == (Cut(encoder="CLIP", tokens=most + 2, most=most, words="cube cube"),)


def test_released_tokenizers(pocket: tuple[Family, Parts]) -> None:
    with pytest.raises(ModelError, match="needs the tokenizers"):
        cuts(pocket[0], Parts(info=pocket[1].info), ["a"])


def remarks(pocket: Any, noun: str, **texts: str) -> list[tuple[str, str]]:
    log = Log()
    remark_cuts(*pocket, texts, log.events, noun)
    return [(notice.level, notice.message) for notice in log.of(Notice)]


def test_one_text_is_told_with_all_that_is_lost(pocket: tuple[Family, Parts]) -> None:
    assert remarks(pocket, "prompt", it=cubes(26)) == []
    assert remarks(pocket, "prompt", it=cubes(27)) == [
        (
            "info",
            'too long for CLIP, which reads 28 tokens: it (29 tokens; not read: "cube"). T5 reads it whole.',
        )
    ]
    none = "No text encoder reads it whole: shorten it."
    assert remarks(pocket, "prompt", it=cubes(30), other="a") == [
        (
            "warning",
            f'too long for CLIP, which reads 28 tokens: it (32 tokens; not read: "{cubes(4)}"). {none}',
        ),
        (
            "warning",
            f'too long for T5, which reads 28 tokens: it (31 tokens; not read: "{cubes(3)}"). {none}',
        ),
    ]


def test_of_many_texts_a_few_are_shown_and_both_kinds_apart(pocket: tuple[Family, Parts]) -> None:
    """Those that T5 reads to their end are no loss, and told apart from the others."""
    texts = {f"n{number}": cubes(27) for number in range(4)} | {"long": cubes(60), "short": "a"}
    clip, lost, t5 = remarks(pocket, "caption", **texts)
    assert clip[0] == "info"
    shown = "; ".join(f'n{number} (29 tokens; not read: "cube")' for number in range(3))
    assert f"28 tokens: 4 of 6 captions: {shown}; and 1 more. T5 reads them whole." in clip[1]
    assert (lost[0], t5[0]) == ("warning", "warning")
    assert "too long for CLIP, which reads 28 tokens: 1 of 6 captions: long (62 tokens" in lost[1]
    assert "too long for T5, which reads 28 tokens: 1 of 6 captions: long (61 tokens" in t5[1]
    assert len(t5[1]) < 250
