from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..runs.folders import RECIPE, write_run
from .test_app import HEAVY, fresh

Run = Callable[..., Any]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list(velatura: Run, here: Path) -> None:
    write_run(here / "runs" / "dog")
    write_run(here / "runs" / "cat", state="failed", message="the loss is nan", updated=1.0)
    (here / "runs" / "notes").mkdir()
    ended = velatura("runs", "list")
    head, dog, cat, why, others = ended.out.splitlines()
    assert head.split() == ["name", "state", "step", "loss", "left", "last", "word", "size"]
    assert dog.split()[:6] == ["dog", "running", "20/40", "0.2500", "10", "s"]
    assert cat.split()[:4] == ["cat", "failed", "20/40", "0.2500"]
    assert cat.split()[-4:] == [cat.split()[-4], "ago", "1.0", "MiB"]
    assert why == "cat failed: the loss is nan"
    assert others == "1 folder that is no run: notes"
    facts = json.loads(velatura("runs", "list", "runs", "--json").out)
    assert [run["name"] for run in facts["runs"]] == ["dog", "cat"]
    assert facts["other_folders"] == ["runs/notes"]


def test_a_run_that_ended_without_a_word_says_what_to_do(velatura: Run, here: Path) -> None:
    write_run(here / "runs" / "dog", process_started=1.0)  # its process id is another process's by now
    said = velatura("runs", "list").out.splitlines()[-1]
    assert said.startswith("dog dead: its process is gone without a word: killed")
    assert said.endswith("--resume goes on")
    assert said.removeprefix("dog dead: ") in velatura("runs", "show", "dog").out


def test_nothing_to_list(velatura: Run, here: Path) -> None:
    ended = velatura("runs", "list")
    assert ended.code == 2
    assert "there is no folder" in ended.err
    (here / "runs").mkdir()
    ended = velatura("runs", "list")
    assert (ended.code, ended.out) == (0, "there are no runs here\n")


def test_show(velatura: Run, here: Path) -> None:
    write_run(here / "runs" / "dog", previews=(0, 4), phase="previews")
    out = velatura("runs", "show", "dog").out
    lines = out.splitlines()
    assert lines[0].startswith("dog · running: previews · step 20/40 · 10 s left · ")
    for expected in (
        "model      flux pocket/flux",
        "trained    lora, rank 16, alpha 16.0",
        "phases     scan 2 s, previews 1:03 (2 times)",
        "speed      8.00 img/s on average, 1.0 GiB at most",
        "previews   2 pictures of 2 steps: runs/dog/previews/index.html",
        "states     after step 4",
        "saved      runs/dog/adapters/dog-000004.safetensors, 1.0 MiB",
        "loss (o: training, smoothed; v: validation)",
        "warning: caption cut",
    ):
        assert expected in lines, expected
    assert json.loads(velatura("runs", "show", "dog", "--json").out)["recipe"]["seed"] == 1


def test_show_what_is_hardly_there(velatura: Run, here: Path) -> None:
    (here / "dog").mkdir()
    (here / "dog" / "events.jsonl").touch()
    out = velatura("runs", "show", "dog").out
    assert out.startswith("dog · unknown · ")
    assert "recipe  missing or damaged" in out


def test_compare(velatura: Run, here: Path) -> None:
    write_run(here / "runs" / "dog", previews=(0, 4))
    write_run(here / "runs" / "cat", recipe=RECIPE.replace("rank = 16", "rank = 32"), previews=(0,))
    out = velatura("runs", "compare", "dog", "cat", "--html", "pages/both.html").out
    lines = out.splitlines()
    for expected in (
        "recipe        A   B",
        "adapter.rank  16  32",
        "loss (training, smoothed)",
        "validation loss",
        "preview: a dog (seed 7, 8x8)",
        "  A  step 4  runs/dog/previews/000004/00.png",
        "  B  step 0  runs/cat/previews/000000/00.png",
        "pages/both.html",
    ):
        assert expected in lines, expected
    assert (here / "pages" / "both.html").read_text().startswith("<!doctype html>")
    facts = json.loads(velatura("runs", "compare", "dog", "cat", "--json").out)
    assert facts["differences"] == [{"key": "adapter.rank", "values": ["16", "32"]}]


def test_a_page_needs_a_file(velatura: Run, here: Path) -> None:
    for name in ("dog", "cat"):
        write_run(here / "runs" / name)
    ended = velatura("runs", "compare", "dog", "cat", "--html", "runs")
    assert (ended.code, ended.err) == (
        2,
        "error: --html runs is a folder; give a file in it: runs/runs.html\n",
    )
    assert velatura("runs", "compare", "dog").code == 2


def test_looking_at_runs_does_not_import_torch(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "dog", previews=(0,))
    write_run(tmp_path / "runs" / "cat", previews=(0,))
    runs, page = tmp_path / "runs", str(tmp_path / "page.html")
    heavy = set(HEAVY) - {"PIL", "rich"}
    for words in (("list", str(runs)), ("compare", str(runs / "dog"), str(runs / "cat"), "--html", page)):
        code, modules, err = fresh("runs", *words)
        assert (code, err) == (0, "")
        assert not modules & heavy
