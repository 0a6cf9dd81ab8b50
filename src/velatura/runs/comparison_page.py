"""Runs side by side as one self-contained page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from velatura.data.caches.cache_place import readable
from velatura.runs.comparison import Comparison, Subject
from velatura.runs.figures import state_text, steps_text
from velatura.training.reporting.chart import chart
from velatura.training.reporting.figures import speed
from velatura.training.reporting.page import page, picture_cell

HEAD = ("run", "state", "steps", "loss, mean of about 50 steps", "images per second", "memory at most")


def comparison_page(comparison: Comparison) -> str:
    """The page: runs, differences of the recipes, losses in one frame, previews in columns."""
    title = " and ".join(comparison.names)
    body = [
        f"<h1>{html.escape(title)}</h1>",
        _runs(comparison),
        _differences(comparison),
        _losses(comparison),
        _previews(comparison),
    ]
    return page(title, "".join(body))


def _runs(comparison: Comparison) -> str:
    rows = []
    for name, run in zip(comparison.names, comparison.runs, strict=True):
        facts = run.overview
        ended = f"{state_text(facts)}: {facts.message}" if facts.message else state_text(facts)
        loss = "" if facts.loss is None else f"{facts.loss:.4f}"
        rate = "" if run.images_per_second is None else speed(run.images_per_second)
        memory = "" if run.memory is None else readable(run.memory)
        rows.append([name, ended, steps_text(facts), loss, rate, memory])
    return _table(HEAD, rows)


def _differences(comparison: Comparison) -> str:
    rows = [
        [row.key, *("—" if value is None else value for value in row.values)]
        for row in comparison.differences
    ]
    if not rows:
        return "<h2>Recipes</h2><p>They differ in nothing but their names.</p>"
    return f"<h2>What differs in the recipes</h2>{_table(['', *comparison.names], rows)}"


def _losses(comparison: Comparison) -> str:
    parts = [
        f"<h2>{html.escape(title)}</h2>{picture}"
        for title, curves in comparison.curves.items()
        if (picture := chart(list(zip(comparison.names, curves, strict=True))))
    ]
    caution = f"<p class='warning'>{html.escape(comparison.caution)}</p>" if comparison.caution else ""
    return (caution if parts else "") + "".join(parts)


def _previews(comparison: Comparison) -> str:
    if not comparison.previews:
        return ""
    subjects = "".join(_subject(comparison, subject, each) for subject, each in comparison.previews.items())
    return f"<h2>Previews</h2>{subjects}"


def _subject(comparison: Comparison, subject: Subject, each: Sequence[Mapping[int, Path]]) -> str:
    """One preview: a row per step, a column per run that has it."""
    columns = [(name, steps) for name, steps in zip(comparison.names, each, strict=True) if steps]
    without = [name for name, steps in zip(comparison.names, each, strict=True) if not steps]
    head = "".join(f"<th>{html.escape(name)}</th>" for name, _ in columns)
    rows = "".join(
        f"<tr><th>{'before' if step == 0 else f'step {step:,}'}</th>"
        + "".join(picture_cell(steps.get(step)) for _, steps in columns)
        + "</tr>"
        for step in sorted({step for _, steps in columns for step in steps})
    )
    words = html.escape(subject.prompt) or "no prompt"
    missing = f"<p class='aside'>not painted by {html.escape(', '.join(without))}</p>" if without else ""
    return (
        f"<h3>{words} <small class='aside'>({subject.facts})</small></h3>{missing}"
        f"<div class='scroll'><table><tr><th></th>{head}</tr>{rows}</table></div>"
    )


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<div class='scroll'><table>{''.join(lines)}</table></div>"
