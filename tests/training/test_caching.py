"""What is said while captions and images are encoded ahead of the loop."""

from __future__ import annotations

from pathlib import Path

from .conftest import Train


def test_captions_that_no_encoder_reads_to_the_end_are_told(run: Train, photos: Path) -> None:
    """Both read 28 tokens; CLIP has a mark at both ends, T5 one at the end."""
    for number, words in ((0, 60), (1, 27)):  # far too long for both; too long for CLIP alone
        (photos / f"{number:02d}.txt").write_text(" ".join(["cube"] * words))
    said = run(training={"steps": 1}).log.texts
    assert "1 captions are longer than the model reads and are cut: 'cube cube" in said
    assert "(61 tokens, 28 are read)" in said


def test_the_report_lists_them(run: Train, photos: Path) -> None:
    (photos / "00.txt").write_text(" ".join(["cube"] * 60))
    found = run(training={"steps": 1})
    assert "longer than the model reads" in (found.folder / "report.html").read_text("utf-8")
