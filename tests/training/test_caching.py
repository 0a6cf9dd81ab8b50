"""What is said while captions and images are encoded ahead of the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from velatura.events import Notice

from .conftest import Run, Train


def levels(found: Run, words: str) -> list[str]:
    """Of the notices with these words."""
    return [notice.level for notice in found.log.of(Notice) if words in notice.message]


def test_what_the_encoders_do_not_read_of_captions_is_told(run: Train, photos: Path) -> None:
    """Both read 28 tokens; CLIP has a mark at both ends, T5 one at the end. Told again when all is cached."""
    for number, words in ((0, 60), (1, 27)):  # far too long for both; too long for CLIP alone
        (photos / f"{number:02d}.txt").write_text(" ".join(["cube"] * words))
    for into in ("cold", "warm"):
        found = run(into=into, training={"steps": 1})
        said = found.log.texts
        name, other = (f"{photos}/{number:02d}.png" for number in (0, 1))
        few = f'1 of 6 captions: {name} ({{}} tokens; not read: "cube cube'
        assert f"too long for CLIP, which reads 28 tokens: {few.format(62)}" in said
        assert f"too long for T5, which reads 28 tokens: {few.format(61)}" in said
        assert f'CLIP, which reads 28 tokens: 1 of 6 captions: {other} (29 tokens; not read: "cube"). T5 reads it whole.' in said  # fmt: skip
        assert levels(found, "No text encoder reads it whole: shorten it") == ["warning", "warning"]
        assert levels(found, "T5 reads it whole") == ["info"]
        report = (found.folder / "report.html").read_text("utf-8")
        assert "too long for T5, which reads 28 tokens" in report
    assert "encoded" not in said  # the second run


def test_a_few_of_many_are_named(run: Train, photos: Path) -> None:
    for number in range(5):
        (photos / f"{number:02d}.txt").write_text(f"{number} " + " ".join(["cube"] * 60))
    said = run(training={"steps": 1}).log.texts
    assert "too long for T5, which reads 28 tokens: 5 of 6 captions: " in said
    assert "; and 2 more. No text encoder reads them whole: shorten them" in said
    assert "04.png" not in said


def test_captions_that_are_encoded_at_every_step_are_looked_at_too(run: Train, photos: Path) -> None:
    (photos / "00.txt").write_text(" ".join(["cube"] * 60))
    found = run(training={"steps": 1}, memory={"cache": False})
    assert levels(found, "too long for T5") == ["warning"]


def test_of_very_many_captions_the_first_are_looked_at(
    run: Train, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("velatura.training.caching.LOOKED_AT", 3)
    for number in (2, 4):
        (photos / f"{number:02d}.txt").write_text(" ".join(["cube"] * 60))
    said = run(training={"steps": 1}).log.texts
    assert "of the captions, the tokens of the first 3 were counted" in said
    assert "1 of 3 captions" in said


def test_preview_prompts_that_are_cut_or_have_no_effect_are_told(run: Train) -> None:
    long = " ".join(["cube"] * 40)
    prompts = [f"a cube --n {long} --l 2", long, "a cube --n ugly", "a cone --n bad"]
    found = run(training={"steps": 1}, previews={"steps": 1, "baseline": False, "prompts": prompts})
    said = found.log.texts
    assert (
        "too long for T5, which reads 28 tokens: 2 of 5 preview prompts: preview 1, negative (41 tokens"
        in said
    )
    assert "; preview 2 (41 tokens" in said
    expected = "preview 3, 4: the negative prompt has no effect at cfg = 1: set cfg above 1, or leave it out"
    assert levels(found, expected) == ["warning"]


CHANGING = "captions are encoded at every step: 6 of 6 captions change from use to use (shuffle_tags)"


@pytest.mark.parametrize("dry_run", [True, False])
def test_which_encoders_stay_loaded_and_why(run: Train, photos: Path, dry_run: bool) -> None:
    for number in range(6):
        (photos / f"{number:02d}.txt").write_text("cube, " * 40 + "red")
    said = run(dry_run=dry_run, training={"steps": 1}, data={"shuffle_tags": True, "colour": 0.5}).log.texts
    assert f"{CHANGING}; caption_variants would draw a number of texts ahead" in said
    assert "images are encoded at every step: 6 images change their colours from use to use (colour)" in said
    if not dry_run:
        assert "No text encoder reads them whole: shorten them" in said


def test_with_variants_the_encoders_are_released(run: Train, photos: Path) -> None:
    for number in range(6):
        (photos / f"{number:02d}.txt").write_text(f"a, b, c, d, {number}")
    data = {"shuffle_tags": True, "caption_variants": 2}
    assert "captions: 12 of 12 texts to be encoded" in run(dry_run=True, data=data).log.texts
    said = run(training={"steps": 3}, data=data).log.texts
    assert "at every step" not in said
    assert "encoded 12 captions" in said


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"memory": {"cache": False}}, "memory.cache = false"),
        ({"full": {"parts": ["text_encoders"]}}, "the text encoders are trained"),
    ],
)
def test_other_reasons(run: Train, sections: dict[str, Any], reason: str) -> None:
    said = run(dry_run=True, **sections).log.texts
    assert f"captions are encoded at every step: {reason}" in said
