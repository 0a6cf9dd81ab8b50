"""Runs side by side as one self-contained page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from velatura.runs.comparison import Comparison, Subject
from velatura.runs.figures import state_text, steps_text
from velatura.training.reporting.curves import svg
from velatura.training.reporting.page import inline_picture, page

COLOURS = ("#36c", "#c63", "#393", "#939", "#0aa", "#a80", "#c39", "#555")


def comparison_page(comparison: Comparison) -> str:
    """The page: runs, differences of the recipes, losses in one frame, previews in columns."""
    title = " and ".join(comparison.names)
    body = [
        f"<h1>{html.escape(title)}</h1>",
        _runs(comparison),
        _differences(comparison),
        _losses(comparison),
    ]
    previews = "".join(_subject(comparison, subject, each) for subject, each in comparison.previews.items())
    body += [f"<h2>Previews</h2>{previews}"] if previews else []
    return page(title, "".join(body))


def _runs(comparison: Comparison) -> str:
    rows = []
    for name, run in zip(comparison.names, comparison.runs, strict=True):
        facts = run.overview
        ended = f"{state_text(facts)}: {facts.message}" if facts.message else state_text(facts)
        loss = "" if facts.loss is None else f"{facts.loss:.4f}"
        last = ", ".join(f"{which} {curve[-1][1]:.4f}" for which, curve in run.validations.items())
        rows.append([name, ended, steps_text(facts), loss, last])
    return _table(["run", "state", "steps", "loss", "last validation"], rows)


def _differences(comparison: Comparison) -> str:
    rows = [
        [row.key, *("—" if value is None else value for value in row.values)]
        for row in comparison.differences
    ]
    if not rows:
        return "<h2>Recipes</h2><p>They differ in nothing but their names.</p>"
    return f"<h2>What differs in the recipes</h2>{_table(['', *comparison.names], rows)}"


def _losses(comparison: Comparison) -> str:
    parts = []
    for title, curves in comparison.curves.items():
        picture = svg(zip(curves, COLOURS, strict=False))
        words = [
            f"<b style='color:{colour}'>{html.escape(name)}</b> {curve[0][1]:.4f} to {curve[-1][1]:.4f}"
            for name, curve, colour in zip(comparison.names, curves, COLOURS, strict=False)
            if curve
        ]
        parts += [f"<h2>{html.escape(title)}</h2>{picture}<p>{'; '.join(words)}</p>"] if picture else []
    caution = f"<p class='warning'>{html.escape(comparison.caution)}</p>" if comparison.caution else ""
    return "".join(parts) + (caution if parts else "")


def _subject(comparison: Comparison, subject: Subject, each: Sequence[Mapping[int, Path]]) -> str:
    """One preview: a row per step, a column per run."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in comparison.names)
    rows = "".join(
        f"<tr><th>{'before' if step == 0 else f'step {step:,}'}</th>"
        + "".join(f"<td>{inline_picture(steps.get(step))}</td>" for steps in each)
        + "</tr>"
        for step in sorted({step for steps in each for step in steps})
    )
    words = html.escape(subject.prompt) or "no prompt"
    return (
        f"<p>{words} <small>({subject.facts})</small></p>"
        f"<div class='scroll'><table><tr><th></th>{head}</tr>{rows}</table></div>"
    )


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<div class='scroll'><table>{''.join(lines)}</table></div>"
