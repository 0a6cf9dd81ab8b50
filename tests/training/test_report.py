"""report.html says what it is there to say, and is sound HTML."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from velatura.training.report import POINTS, _events, _losses, _running_means

from .conftest import Train

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
    with pytest.raises(MemoryError):
        run()
    assert "steps 0 of 1000" in " ".join(read(tmp_path / "runs" / "tiny" / "report.html").words)


def test_a_report_that_cannot_be_written_is_a_warning(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("velatura.training.run.write_report", full)
    found = run(training={"steps": 1})
    assert found.outcome.exit_code == 0
    assert "report.html could not be written: [Errno 28] No space left on device" in found.log.texts


def step(number: int, loss: Any = 1.0) -> dict[str, Any]:
    return {"kind": "StepFinished", "step": number, "loss": loss}


def log(path: Path, *events: dict[str, Any] | str) -> Path:
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_steps_that_were_made_again_after_a_kill_count_once(tmp_path: Path) -> None:
    """State at 2, killed after 4; resumed: notices come between the old steps and the new ones."""
    notice = {"kind": "Notice", "message": "going on after step 2", "level": "info"}
    path = log(
        tmp_path / "events.jsonl",
        *(step(number, loss=1.0) for number in (1, 2, 3, 4)),
        {"kind": "ValidationFinished", "step": 4, "loss": 9.0},
        '{"kind": "StepFin',
        "[]",
        "5",
        notice,
        *(step(number, loss=2.0) for number in (3, 4, 5)),
        {"kind": "ValidationFinished", "step": 4, "loss": 8.0},
    )
    found = _events(path)
    steps = [(e["step"], e["loss"]) for e in found if e["kind"] == "StepFinished"]
    assert steps == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]
    assert [e["loss"] for e in found if e["kind"] == "ValidationFinished"] == [8.0]
    assert notice in found


def test_no_log_is_no_events(tmp_path: Path) -> None:
    assert _events(tmp_path / "none") == []


def test_running_means_by_hand() -> None:
    points = [(1, 1.0), (2, 3.0), (3, 5.0), (4, 1.0)]
    assert _running_means(points, 1) == points
    assert _running_means(points, 2) == [(1, 1.0), (2, 2.0), (3, 4.0), (4, 3.0)]
    assert _running_means(points, 3) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 3.0)]


def test_losses_that_are_no_numbers_are_left_out() -> None:
    steps = [step(1, 1.0), step(2, "nan"), step(3, 2.0)]
    drawn = _losses(steps, [{"step": 1, "loss": "inf"}, {"step": 3, "loss": 4.0}])
    assert "1.0000 to 2.0000; validation (orange): 4.0000 to 4.0000" in drawn
    assert _losses([step(1, "nan"), step(2, 1.0)], []) == ""


def test_a_long_run_makes_no_long_page() -> None:
    drawn = _losses([step(number, 1.0 / number) for number in range(1, 50_001)], [])
    (points,) = re.findall(r"points='([^']*)'", drawn)
    assert POINTS <= len(points.split()) <= POINTS + 1
    x, y = zip(*(map(float, point.split(",")) for point in points.split()), strict=True)
    assert (min(x), max(x)) == (10, 990)
    assert (min(y), max(y)) == (10, 210)
