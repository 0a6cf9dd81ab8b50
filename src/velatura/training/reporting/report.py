"""report.html: one self-contained page that shows what a run saw, did and made."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from velatura.checkpoints.writing import write_bytes
from velatura.events import FileSaved, Notice, PreviewSaved, StepFinished, StepLeftOut
from velatura.plural import counted
from velatura.training.folder import RunFolder
from velatura.training.reporting.curves import Point, running_means, svg, window_of
from velatura.training.reporting.event_log import losses, read_log, validation_losses
from velatura.training.reporting.page import inline_picture, page
from velatura.training.reporting.pictures import is_of_average
from velatura.training.setup import Setup

COLOURS = {
    "orange": "#c63",
    "green": "#393",
    "purple": "#939",
    "teal": "#0aa",
    "brown": "#a80",
    "red": "#c22",
}


def write_report(setup: Setup, folder: RunFolder) -> None:
    """Write the page from the run's event log; called at the end of a run, however it ended.

    Raises StorageError.
    """
    log = read_log(folder.events)
    steps = [event for event in log if isinstance(event, StepFinished)]
    body = [
        f"<h1>{html.escape(setup.recipe.name)}</h1>",
        _summary(setup, steps, sum(isinstance(event, StepLeftOut) for event in log)),
        _losses(losses(log), validation_losses(log)),
        _previews([event for event in log if isinstance(event, PreviewSaved)], folder.previews_page),
        _quarantine(setup),
        _notices([event for event in log if isinstance(event, Notice)]),
        _files([event for event in log if isinstance(event, FileSaved)]),
    ]
    data = page(setup.recipe.name, "".join(body)).encode()
    write_bytes(folder.report, data)


def _summary(setup: Setup, steps: Sequence[StepFinished], left_out: int) -> str:
    plan = setup.dataset.plan.report()
    seconds = sum(step.seconds for step in steps)
    images = sum(step.images for step in steps)
    sizes = ", ".join(f"{width}x{height}: {count}" for (width, height), count in plan.buckets.items())
    data = f"{counted(setup.dataset.images, 'image')}, {counted(plan.steps, 'step')} per epoch"
    rows = [
        ("model", f"{setup.info.family} {setup.info.variant} ({setup.files.model or setup.files.denoiser})"),
        ("data", f"{data}; uses per size: {sizes}"),
        (
            "steps",
            f"{steps[-1].step} of {steps[-1].steps}" if steps else f"0 of {setup.recipe.training.steps}",
        ),
        ("time", f"{seconds:.1f} s in steps, {images / seconds if seconds else 0:.2f} images per second"),
        ("memory", f"{max((step.memory for step in steps), default=0) / 2**30:.2f} GiB at most"),
        ("computed in", f"{str(setup.dtype).removeprefix('torch.')} on {setup.device}"),
        ("steps skipped by fp16", str(steps[-1].skipped if steps else 0)),
        ("steps left out, not finite", str(left_out)),
    ]
    cells = "".join(f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in rows)
    return (
        f"<table>{cells}</table><p>The complete recipe is in <code>recipe.toml</code> beside this page.</p>"
    )


def _losses(points: Sequence[Point], validations: Mapping[str, Sequence[Point]]) -> str:
    """Training loss smoothed over about 5 % of the run, and the losses of validations, as one SVG."""
    if len(points) < 2:
        return ""
    smooth = running_means(points, window := window_of(points))
    coloured = list(zip(validations.items(), cycle(COLOURS.items())))
    picture = svg([(smooth, "#36c"), *((curve, colour) for (_, curve), (_, colour) in coloured)])
    words = f"training (blue, mean of {counted(window, 'step')}): {smooth[0][1]:.4f} to {smooth[-1][1]:.4f}"
    for (name, curve), (word, _) in coloured:
        words += f"; {name} ({word}): {curve[0][1]:.4f} to {curve[-1][1]:.4f}"
    return f"<h2>Loss</h2>{picture}<p>{words}</p>"


def _previews(saved: Sequence[PreviewSaved], larger: Path) -> str:
    """One row per prompt, one column per step; and a link to the page where they are larger."""
    if not saved:
        return ""
    steps = sorted({event.step for event in saved})
    rows: dict[str, dict[int, Path]] = {}
    for event in saved:
        name = event.prompt + " (average)" * is_of_average(Path(event.path))
        rows.setdefault(f"{Path(event.path).stem} {name}", {})[event.step] = Path(event.path)
    head = "".join(f"<th>{'before' if step == 0 else f'step {step}'}</th>" for step in steps)
    body = "".join(
        f"<tr><td>{html.escape(name.split(' ', 1)[1])}</td>"
        + "".join(f"<td>{inline_picture(paths.get(step))}</td>" for step in steps)
        + "</tr>"
        for name, paths in rows.items()
    )
    link = f"<p><a href='{larger.parent.name}/{larger.name}'>In full size, by step and prompt</a></p>"
    table = f"<div class='scroll'><table><tr><th>prompt</th>{head}</tr>{body}</table></div>"
    return f"<h2>Previews</h2>{table}{link if larger.exists() else ''}"


def _quarantine(setup: Setup) -> str:
    bad = setup.dataset.scan.quarantined
    if not bad:
        return ""
    rows = "".join(f"<tr><td>{html.escape(b.name)}</td><td>{html.escape(b.reason)}</td></tr>" for b in bad)
    return f"<h2>Left aside: {counted(len(bad), 'file')}</h2><table>{rows}</table>"


def _notices(notices: Sequence[Notice]) -> str:
    lines = "".join(f"<li class='{n.level}'>{html.escape(n.message)}</li>" for n in notices)
    return f"<h2>What was remarked</h2><ul>{lines}</ul>" if lines else ""


def _files(saved: Sequence[FileSaved]) -> str:
    kept = {event.path: event for event in saved if Path(event.path).exists()}
    rows = "".join(
        f"<tr><td>step {event.step}</td><td>{event.what}</td><td><code>{html.escape(path)}</code></td></tr>"
        for path, event in kept.items()
    )
    return f"<h2>Files</h2><table>{rows}</table>" if rows else ""
