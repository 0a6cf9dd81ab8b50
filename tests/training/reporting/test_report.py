"""report.html says what it is there to say, and is sound HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from velatura.errors import MemoryShortage
from velatura.training.reporting.report import _losses

from ..conftest import Train

VOID = {"meta", "img", "br"}


class Sound(HTMLParser):
    """Collects text and images; fails on tags that do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(str(dict(attrs)["src"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """`<x/>`: nothing is open after it."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def read(path: Path) -> Sound:
    parser = Sound()
    text = path.read_text("utf-8")
    assert text.startswith("<!doctype html>")
    parser.feed(text.removeprefix("<!doctype html>"))
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_of_a_run(run: Train, photos: Path) -> None:
    (photos / "05.png").write_bytes(b"not a picture")
    name = "<b>a red & green cube</b>"
    found = run(
        training={"steps": 4, "batch_size": 2},
        previews={"every": 2, "steps": 1, "prompts": [name, "a cat"]},
        validation={"share": 0.3, "every": 2},
        data={"max_bad": 0.5},
    )
    page = read(found.folder / "report.html")
    text = " ".join(page.words)
    losses = found.losses
    for expected in (
        "tiny",  # its name
        "steps 4 of 4",
        "GiB at most",
        "images per second",
        "float32 on cpu",
        f"training (blue, mean of 1 step): {losses[0]:.4f} to {losses[-1]:.4f}",
        "Left aside: 1 file",
        "05.png",
        "prompt before step 2 step 4",
        name,  # as text, not as markup
        "22 linear layers adapted",
        "tiny-000004.safetensors",
    ):
        assert expected in text, expected
    assert re.search(r"\d images, [\d.]+ steps per epoch; uses per size: 64x64: \d", text)
    assert len(page.images) == 2 * 3
    assert all(image.startswith("data:image/png;base64,") for image in page.images)
    assert "://" not in (found.folder / "report.html").read_text("utf-8")  # nothing is fetched


def test_a_run_that_fails_before_its_first_step_has_a_page_too(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("velatura.training.run.prepare", too_much)
    with pytest.raises(
        MemoryShortage, match="the memory of this machine is not enough .* a smaller resolution"
    ):
        run()
    assert "steps 0 of 1000" in " ".join(read(tmp_path / "runs" / "tiny" / "report.html").words)


def test_a_report_that_cannot_be_written_is_a_warning(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("velatura.training.run.write_report", full)
    found = run(training={"steps": 1})
    assert found.outcome.exit_code == 0
    assert "report.html could not be written: [Errno 28] No space left on device" in found.log.texts


def test_the_ends_of_the_curves_are_told() -> None:
    drawn = _losses([(1, 1.0), (3, 2.0)], {"validation": [(3, 4.0)], "faces": [(2, 0.5), (3, 0.25)]})
    assert "1.0000 to 2.0000; validation (orange): 4.0000 to 4.0000; faces (green): 0.5000 to 0.2500" in drawn
    assert _losses([(2, 1.0)], {}) == ""
