"""`velatura runs`: look at runs: those that are on, and those that are over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from velatura.cli.console import echo
from velatura.errors import RecipeError

if TYPE_CHECKING:
    from velatura.runs.comparison import Comparison

app = typer.Typer(
    name="runs", help="List, show and compare runs, also while they are on.", no_args_is_help=True
)

AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
RUN = "The run's folder, or its name under `runs`."


@app.command("list")
def list_runs(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where runs are, `output.folder` of their recipes.")
    ] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs in FOLDER, those heard of last first.

    A state: running; finished; stopped (saved, --resume goes on); failed; dead (its process is gone without a word);
    silent (on another machine, not heard of for ten minutes); unknown.
    """
    from dataclasses import asdict

    from velatura.cli.runs_text import list_text
    from velatura.runs.overview import find_runs, overview

    runs, others = find_runs(folder)
    found = sorted(map(overview, runs), key=lambda run: -(run.updated or 0))
    if as_json:
        _print_json({"runs": list(map(asdict, found)), "other_folders": list(map(str, others))})
        return
    for line in list_text(found, [path.name for path in others]):
        echo(line)


@app.command()
def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN, show_default=False)], as_json: AsJson = False
) -> None:
    """Show one run: how it is, its recipe in short, phases, loss, previews, what was saved, what was remarked."""
    from velatura.cli.runs_text import show_text
    from velatura.runs.overview import find_run
    from velatura.runs.run import read_run

    found = read_run(find_run(run))
    if as_json:
        _print_json(found.record())
        return
    for line in show_text(found):
        echo(line)


@app.command()
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help=f"{RUN} Two or more.", show_default=False)
    ],
    page: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with pictures, too.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set runs side by side: what differs in their recipes, their losses, their previews."""
    from velatura.cli.runs_text import compare_text
    from velatura.runs.comparison import compare as compare_runs
    from velatura.runs.overview import find_run

    found = compare_runs([find_run(run) for run in runs])
    if page is not None:
        _write_page(page, found)
    if as_json:
        _print_json(found.record())
        return
    for line in compare_text(found):
        echo(line)
    if page is not None:
        echo(f"\n{page}")


def _write_page(file: Path, comparison: Comparison) -> None:
    from velatura.runs.comparison_page import comparison_page

    if file.is_dir():
        raise RecipeError(f"--html {file} is a folder; give a file in it: {file / 'runs.html'}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(comparison_page(comparison).encode(errors="replace"))  # a name may be no text


def _print_json(facts: object) -> None:
    echo(json.dumps(facts, indent=2, default=str))
