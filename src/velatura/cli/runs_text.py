"""What `velatura runs` prints for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from velatura.data.caches.cache_place import readable
from velatura.plural import agreeing, counted
from velatura.runs.comparison import Comparison
from velatura.runs.figures import age, state_text, steps_text
from velatura.runs.overview import Overview
from velatura.runs.recipes import in_short
from velatura.runs.run import Run
from velatura.runs.text_chart import text_chart
from velatura.training.reporting.figures import duration, speed

LETTERS = "vwxyzabcdefghijklmnpqrstu"  # of the losses of validations in a chart
WIDEST = 48  # characters of a recipe's value in a table; --json has all of it

GONE = (
    "its process is gone without a word: killed, maybe for lack of memory, the machine went down, or a full disk. "
    "--resume goes on"
)


def list_text(runs: Sequence[Overview], others: Sequence[str]) -> Iterator[str]:
    """A table of runs; below it, why some failed, and which folders are no runs."""
    if runs:
        head = ["name", "state", "step", "loss", "left", "last word", "size"]
        yield from columns([head, *(_row(run) for run in runs)])
    else:
        yield "there are no runs here"
    for run in runs:
        if why := _why(run):
            yield f"{run.name} {run.state}: {why}"
    if others:
        yield f"{counted(len(others), 'folder that is no run', 'folders that are no runs')}: {', '.join(others)}"


def show_text(run: Run) -> Iterator[str]:
    """One run: how it is, its recipe in short, phases, loss, what lies in its folder, notices."""
    facts = run.overview
    left = [] if facts.seconds_left is None else [f"{duration(facts.seconds_left)} left"]
    steps = f"step {steps_text(facts)}" if facts.step is not None else ""
    yield " · ".join(filter(None, [facts.name, state_text(facts), steps, *left, age(facts.updated)]))
    if why := _why(facts):
        yield f"  {why}"
    yield ""
    yield from columns([["folder", f"{facts.folder}, {readable(facts.size)}"], *_facts(run)])
    letters = dict(zip(run.validations, LETTERS, strict=False))
    curves = {"o": run.smoothed} | {letter: run.validations[name] for name, letter in letters.items()}
    if chart := text_chart(curves):
        yield ""
        yield f"loss ({'; '.join(['o: training, smoothed', *(f'{a}: {name}' for name, a in letters.items())])})"
        yield from chart
    if run.notices:
        yield ""
        for notice in run.notices:
            yield f"warning: {notice.message}" if notice.level == "warning" else notice.message


def compare_text(comparison: Comparison) -> Iterator[str]:
    """Runs side by side: how they are, what differs in their recipes, their losses, their last previews."""
    head = ["", "run", "state", "step", "loss", "left", "last word", "size"]
    rows = [
        [letter, name, *_row(run.overview)[1:]]
        for letter, name, run in zip(comparison.letters, comparison.names, comparison.runs, strict=True)
    ]
    yield from columns([head, *rows])
    yield ""
    if comparison.differences:
        table = [[row.key, *map(_value, row.values)] for row in comparison.differences]
        yield from columns([["recipe", *comparison.letters], *table])
    else:
        yield "the recipes differ in nothing but their names"
    for title, curves in comparison.curves.items():
        if chart := text_chart(dict(zip(comparison.letters, curves, strict=True))):
            yield ""
            yield title
            yield from chart
    if comparison.caution:
        yield comparison.caution
    yield from _last_previews(comparison)


def columns(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Rows of texts as lines whose columns stand below each other."""
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _why(run: Overview) -> str:
    """Why it failed, and what to do where it ended without a word."""
    return GONE if run.state == "dead" else run.message


def _row(run: Overview) -> list[str]:
    loss = "" if run.loss is None else f"{run.loss:.4f}"
    left = "" if run.seconds_left is None else duration(run.seconds_left)
    return [run.name, state_text(run), steps_text(run), loss, left, age(run.updated), readable(run.size)]


def _facts(run: Run) -> Iterator[list[str]]:
    for word, text in in_short(run.recipe) or [("recipe", "missing or damaged")]:
        yield [word, text]
    if run.phases:
        yield ["phases", ", ".join(_phase(one.name, one.times, one.seconds) for one in run.phases)]
    if run.images_per_second is not None and run.memory is not None:
        yield ["speed", f"{speed(run.images_per_second)} img/s on average, {readable(run.memory)} at most"]
    if run.pictures:
        steps = len({picture.step for picture in run.pictures})
        page = run.pictures[0].path.parent.parent / "index.html"
        yield ["previews", f"{counted(len(run.pictures), 'picture')} of {counted(steps, 'step')}: {page}"]
    if run.states:
        after = ", ".join(str(int(name)) for name in run.states)
        yield ["states", f"after {agreeing(len(run.states), 'step')} {after}"]
    for path, size in run.models:
        yield ["saved", f"{path}, {readable(size)}"]


def _phase(name: str, times: int, seconds: float) -> str:
    return f"{name} {duration(seconds)}" + (f" ({times} times)" if times > 1 else "")


def _value(value: str | None) -> str:
    text = "—" if value is None else value
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def _last_previews(comparison: Comparison) -> Iterator[str]:
    for subject, each in comparison.previews.items():
        yield ""
        yield f"preview: {subject.prompt or 'no prompt'} ({subject.facts})"
        rows = [
            [f"  {letter}", f"step {max(steps):,}", str(steps[max(steps)])]
            for letter, steps in zip(comparison.letters, each, strict=True)
            if steps
        ]
        yield from columns(rows)
