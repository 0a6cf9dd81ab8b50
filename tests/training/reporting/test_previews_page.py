"""previews/index.html: a row per step, a column per prompt, nothing but what lies in the folder."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from velatura.events import Event, PreviewSaved, StepFinished
from velatura.sampling.png import save_png
from velatura.sampling.request import Request
from velatura.training.folder import RunFolder
from velatura.training.reporting.previews_page import write_previews_page

from ..conftest import Train
from .test_report import read


class Table(HTMLParser):
    """The cells of the page's table: texts, and the pictures' places."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        elif tag == "img":
            self.rows[-1][-1] += f"[{dict(attrs)['src']}]"
        elif tag == "a":
            self.links.append(str(dict(attrs)["href"]))
        elif tag == "br":
            self.rows[-1][-1] += " / "

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


def table(page: Path) -> Table:
    parser = Table()
    parser.feed(page.read_text("utf-8"))
    return parser


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, "dog")


def paint(folder: RunFolder, step: int, number: int, request: Request) -> None:
    save_png(Image.new("RGB", (16, 16)), folder.previews(step) / f"{number:02d}.png", request, {"step": step})


A = Request(
    prompt="a <dog>", width=512, height=768, seed=7, steps=20, guidance=3.5, cfg=1.0, negative="unused"
)
B = Request(prompt="a cat", width=64, height=64, steps=1, guidance=0.0, cfg=2.5, negative="blurry & dark")


def test_rows_are_steps_and_columns_prompts(folder: RunFolder) -> None:
    for step in (1000, 0, 250):
        paint(folder, step, 0, A)
        paint(folder, step, 1, B)
    write_previews_page(folder)
    page = read(folder.previews_page)  # sound HTML
    assert "dog: previews" in page.words
    found = table(folder.previews_page)
    assert found.rows == [
        [
            "",
            "a <dog> / 512x768, seed 7, 20 sampling steps, guidance 3.5",
            "a cat / 64x64, seed 0, 1 sampling step, cfg 2.5, negative: blurry & dark",
        ],
        ["before training", "[000000/00.png]", "[000000/01.png]"],
        ["step 250", "[000250/00.png]", "[000250/01.png]"],
        ["step 1,000", "[001000/00.png]", "[001000/01.png]"],
    ]
    text = folder.previews_page.read_text("utf-8")
    assert "://" not in text  # nothing is fetched
    assert not re.search(r"(src|href)='(/|data:)", text)
    assert "../report.html" in found.links
    for link in found.links[1:]:
        assert (folder.previews_page.parent / link).is_file()


def test_a_prompt_that_was_changed_on_the_way_has_a_column_of_its_own(folder: RunFolder) -> None:
    paint(folder, 0, 0, A)
    paint(folder, 5, 0, B)
    paint(folder, 5, 1, A)
    write_previews_page(folder)
    head, *rows = table(folder.previews_page).rows
    assert [cell.split(" / ")[0] for cell in head] == ["", "a <dog>", "a cat"]
    assert rows == [
        ["before training", "[000000/00.png]", "not painted"],
        ["step 5", "[000005/01.png]", "[000005/00.png]"],
    ]


def test_other_files_are_passed_over(folder: RunFolder) -> None:
    write_previews_page(folder)
    assert not folder.previews_page.exists()
    paint(folder, 5, 0, B)
    Image.new("RGB", (16, 16)).save(folder.previews(5) / "01.png")
    (folder.previews_page.parent / "best").mkdir()
    save_png(Image.new("RGB", (16, 16)), folder.previews_page.parent / "best" / "00.png", A, {})
    write_previews_page(folder)
    assert len(table(folder.previews_page).rows[0]) == 2


def test_the_page_of_a_run_is_written_after_each_round(run: Train, tmp_path: Path) -> None:
    """Also while the run goes on, and it shows earlier rounds when the run is resumed; the report leads to it."""
    page = tmp_path / "runs" / "tiny" / "previews" / "index.html"
    seen: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepFinished):
            seen.append(len(table(page).rows) - 1)

    sections = {"previews": {"every": 1, "steps": 1, "prompts": ["a", "b --d 3"]}}
    first = run(training={"steps": 3}, stop_after=2, watch=watch, **sections)
    assert first.outcome.exit_code == 75
    assert seen == [1, 2]  # before training; after step 1
    found = run(training={"steps": 3}, resume=True, **sections)
    rows = table(page).rows
    assert [row[0] for row in rows] == ["", "before training", "step 1", "step 2", "step 3"]
    assert all(len(row) == 3 for row in rows)
    assert {event.step for event in found.log.of(PreviewSaved)} == {2, 3}  # the stop left those of step 2 out
    assert "<a href='previews/index.html'>" in (found.folder / "report.html").read_text("utf-8")


def test_without_previews_there_is_no_page(run: Train) -> None:
    found = run(training={"steps": 1})
    assert not (found.folder / "previews").exists()
    assert "previews/index.html" not in (found.folder / "report.html").read_text("utf-8")
