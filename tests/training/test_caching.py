"""What is said while captions and images are encoded ahead of the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import Train


def test_captions_that_no_encoder_reads_to_the_end_are_told(run: Train, photos: Path) -> None:
    """Both read 28 tokens; CLIP has a mark at both ends, T5 one at the end."""
    for number, words in ((0, 60), (1, 27)):  # far too long for both; too long for CLIP alone
        (photos / f"{number:02d}.txt").write_text(" ".join(["cube"] * words))
    said = run(training={"steps": 1}).log.texts
    assert "1 captions are longer than the model reads and are cut: 'cube cube" in said
    assert "(61 tokens, T5 reads 28)" in said
    assert "1 captions are longer than CLIP reads, and another encoder reads them whole: 'cube cube" in said
    assert "(29 tokens, CLIP reads 28)" in said


def test_the_report_lists_them(run: Train, photos: Path) -> None:
    (photos / "00.txt").write_text(" ".join(["cube"] * 60))
    found = run(training={"steps": 1})
    assert "longer than the model reads" in (found.folder / "report.html").read_text("utf-8")


CHANGING = "captions are encoded at every step: 6 of 6 captions change from use to use (shuffle_tags)"


@pytest.mark.parametrize("dry_run", [True, False])
def test_which_encoders_stay_loaded_and_why(run: Train, photos: Path, dry_run: bool) -> None:
    for number in range(6):
        (photos / f"{number:02d}.txt").write_text("cube, " * 40 + "red")
    said = run(dry_run=dry_run, training={"steps": 1}, data={"shuffle_tags": True, "colour": 0.5}).log.texts
    assert f"{CHANGING}; caption_variants would draw a number of texts ahead" in said
    assert "images are encoded at every step: 6 images change their colours from use to use (colour)" in said
    if not dry_run:
        assert "1 captions are longer than the model reads and are cut: 'cube, cube" in said


def test_with_variants_the_encoders_are_released(run: Train, photos: Path) -> None:
    for number in range(6):
        (photos / f"{number:02d}.txt").write_text(f"a, b, c, d, {number}")
    data = {"shuffle_tags": True, "caption_variants": 2}
    assert "text: 12 of 12 texts to be encoded" in run(dry_run=True, data=data).log.texts
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
