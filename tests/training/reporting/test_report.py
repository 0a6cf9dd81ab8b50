"""report.html says what it is there to say, and is sound HTML."""

from __future__ import annotations

import re
import sys
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
        f"training {losses[0]:.4f} {losses[-1]:.4f}",
        "lora, rank 4; adamw, learning rate",
        f"Left aside: 1 file In  {photos} 05.png",
        "prompt before step 2 step 4",
        name,  # as text, not as markup
        "22 linear layers adapted",
        " adapters/tiny-000004.safetensors",  # where it is in the run's folder
        f"velatura train {found.folder / 'recipe.toml'} --resume --set training.steps=8",
        f"--lora {found.folder / 'adapters' / 'tiny-000004.safetensors'}:1 --prompt '{name}' --seed",
    ):
        assert expected in text, expected
    assert text.count("05.png") == 1
    assert re.search(r"previews \d+ s \(3 times\)", text)
    assert "There was no validation" not in text
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


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text here")
def test_a_name_that_is_no_text_does_not_end_the_run(run: Train, photos: Path) -> None:
    (photos / "caf\udce9.png").write_bytes(b"not a picture")  # Latin-1
    found = run(training={"steps": 1}, data={"max_bad": 0.5})
    assert found.outcome.exit_code == 0
    assert " ".join(read(found.folder / "report.html").words).count("caf?.png") == 1


def test_a_stopped_run_says_how_to_go_on(run: Train) -> None:
    found = run(training={"steps": 4}, stop_after=2)
    text = " ".join(read(found.folder / "report.html").words)
    assert f"The run was stopped. To go on with it from the last state: velatura train {found.folder}" in text
    assert "training.steps=" not in text
    assert "There was no validation" in text


def test_a_run_that_was_moved_and_resumed_tells_everything_once(run: Train, tmp_path: Path) -> None:
    recipe = {"training": {"steps": 4}, "previews": {"every": 2, "steps": 1, "prompts": ["a cat"]}, "ema": {}}
    run(**recipe, stop_after=2)
    (tmp_path / "runs").rename(tmp_path / "moved")
    found = run(**recipe, resume=True, into="moved")
    page = read(found.folder / "report.html")
    text = " ".join(page.words)
    assert text.count("linear layers adapted") == 1
    assert "The run was stopped" not in text
    assert "step 2 state state/000002" in text
    assert len(page.images) == 3 + 2  # of the weights before, after 2 and 4; of their average after 2 and 4


def test_a_validation_loss_that_rises_is_told() -> None:
    rising = [(10, 1.0), (20, 0.5), (30, 0.6)]
    training = [(step, 1.0 / step) for step in range(1, 31)]
    told = _losses(training, {"validation": rising, "train-stabilized": rising})
    assert told.count("was lowest after step") == 1
    assert "The loss of validation was lowest after step 20 and ends 20% higher." in told
    assert "lowest after" not in _losses(training, {"validation": [(10, 1.0), (20, 0.5), (30, 0.505)]})


def test_without_steps_there_are_no_losses() -> None:
    assert _losses([], {}) == ""
