"""report.html: one self-contained page that shows what a run saw, did and made."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from velatura.checkpoints.writing import write_atomically
from velatura.plural import counted
from velatura.training.folder import RunFolder
from velatura.training.setup import Setup

REPEATED = ("StepFinished", "ValidationFinished")  # told again by a run that was resumed
POINTS = 1000  # of a curve; more than a screen shows would only make the page slow
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse } td, th { padding: .2rem .7rem .2rem 0; text-align: left; vertical-align: top }
.scroll { overflow-x: auto } img { display: block; max-width: 192px; image-rendering: auto }
.warning { color: #a40 } svg { width: 100%; height: auto; background: #fafafa } code { background: #f3f3f3 }
"""


def write_report(setup: Setup, folder: RunFolder) -> None:
    """Write the page from the run's event log; called at the end of a run, however it ended.

    Raises StorageError.
    """
    events = _events(folder.events)
    steps = [event for event in events if event["kind"] == "StepFinished"]
    body = [
        f"<h1>{html.escape(setup.recipe.name)}</h1>",
        _summary(setup, steps),
        _losses(steps, [event for event in events if event["kind"] == "ValidationFinished"]),
        _previews([event for event in events if event["kind"] == "PreviewSaved"], folder.previews_page),
        _quarantine(setup),
        _notices([event for event in events if event["kind"] == "Notice"]),
        _files([event for event in events if event["kind"] == "FileSaved"]),
    ]
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(setup.recipe.name)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )
    data = page.encode()
    write_atomically(folder.report, lambda file: file.write(data), size=len(data))


def _events(path: Path) -> list[dict[str, Any]]:
    """The log's events. A run that was resumed repeats the steps after its state: the later ones count."""
    if not path.exists():
        return []
    events: list[dict[str, Any]] = []
    newest: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
            kind = event["kind"]
        except (ValueError, TypeError, KeyError):
            continue  # a line cut off by a kill
        if kind in REPEATED:
            step = event["step"]
            if step <= newest.get(kind, -1):
                events = [known for known in events if known["kind"] != kind or known["step"] < step]
            newest[kind] = step
        events.append(event)
    return events


def _summary(setup: Setup, steps: Sequence[dict[str, Any]]) -> str:
    plan = setup.dataset.plan.report()
    seconds = sum(step["seconds"] for step in steps)
    images = sum(step["images"] for step in steps)
    sizes = ", ".join(f"{width}x{height}: {count}" for (width, height), count in plan.buckets.items())
    rows = [
        ("model", f"{setup.info.family} {setup.info.variant} ({setup.files.model or setup.files.denoiser})"),
        (
            "data",
            f"{counted(len(plan.uses), 'image')}, {counted(plan.steps, 'step')} per epoch; uses per size: {sizes}",
        ),
        ("steps", f"{steps[-1]['step'] if steps else 0} of {setup.recipe.training.steps}"),
        ("time", f"{seconds:.1f} s in steps, {images / seconds if seconds else 0:.2f} images per second"),
        ("memory", f"{max((step['memory'] for step in steps), default=0) / 2**30:.2f} GiB at most"),
        ("computed in", f"{str(setup.dtype).removeprefix('torch.')} on {setup.device}"),
        ("steps skipped by fp16", str(steps[-1]["skipped"] if steps else 0)),
    ]
    cells = "".join(f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in rows)
    return (
        f"<table>{cells}</table><p>The complete recipe is in <code>recipe.toml</code> beside this page.</p>"
    )


def _losses(steps: Sequence[dict[str, Any]], validations: Sequence[dict[str, Any]]) -> str:
    """Training loss smoothed over about 5 % of the run, and validation loss, as one SVG."""
    points, held_out = _finite(steps), _finite(validations)
    if len(points) < 2:
        return ""
    window = max(1, len(points) // 20)
    smooth = _running_means(points, window)
    shown = [*smooth[:: -(-len(points) // POINTS)], smooth[-1]]
    lines = _polyline(shown, [*smooth, *held_out], "#36c")
    if len(held_out) > 1:
        lines += _polyline(held_out, [*smooth, *held_out], "#c63")
    words = f"training (blue, mean of {counted(window, 'step')}): {smooth[0][1]:.4f} to {smooth[-1][1]:.4f}"
    if held_out:
        words += f"; validation (orange): {held_out[0][1]:.4f} to {held_out[-1][1]:.4f}"
    return f"<h2>Loss</h2><svg viewBox='0 0 1000 220'>{lines}</svg><p>{words}</p>"


def _finite(events: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    """(step, loss) of all losses that are numbers; the log has the others as text."""
    return [(event["step"], event["loss"]) for event in events if isinstance(event["loss"], float)]


def _running_means(points: Sequence[tuple[int, float]], window: int) -> list[tuple[int, float]]:
    """Each point with the mean of the last `window` values."""
    sums = [0.0, *accumulate(loss for _, loss in points)]
    starts = [max(0, end - window) for end in range(1, len(sums))]
    return [
        (step, (sums[end] - sums[start]) / (end - start))
        for (step, _), end, start in zip(points, range(1, len(sums)), starts, strict=True)
    ]


def _polyline(points: Sequence[tuple[int, float]], frame: Sequence[tuple[int, float]], colour: str) -> str:
    """Points scaled into the picture so that all of `frame` fits."""
    left, right = min(x for x, _ in frame), max(x for x, _ in frame)
    low, high = min(y for _, y in frame), max(y for _, y in frame)
    scaled = [
        f"{(x - left) / max(right - left, 1) * 980 + 10:.1f},{210 - (y - low) / max(high - low, 1e-12) * 200:.1f}"
        for x, y in points
    ]
    return f"<polyline fill='none' stroke='{colour}' stroke-width='2' points='{' '.join(scaled)}'/>"


def _previews(saved: Sequence[dict[str, Any]], page: Path) -> str:
    """One row per prompt, one column per step; and a link to the page where they are larger."""
    if not saved:
        return ""
    steps = sorted({event["step"] for event in saved})
    rows: dict[str, dict[int, str]] = {}
    for event in saved:
        rows.setdefault(f"{Path(event['path']).stem} {event['prompt']}", {})[event["step"]] = event["path"]
    head = "".join(f"<th>{'before' if step == 0 else f'step {step}'}</th>" for step in steps)
    body = "".join(
        f"<tr><td>{html.escape(name.split(' ', 1)[1])}</td>"
        + "".join(f"<td>{_image(paths.get(step))}</td>" for step in steps)
        + "</tr>"
        for name, paths in rows.items()
    )
    link = f"<p><a href='{page.parent.name}/{page.name}'>In full size, by step and prompt</a></p>"
    table = f"<div class='scroll'><table><tr><th>prompt</th>{head}</tr>{body}</table></div>"
    return f"<h2>Previews</h2>{table}{link if page.exists() else ''}"


def _image(path: str | None) -> str:
    if path is None or not Path(path).exists():
        return ""
    data = base64.b64encode(Path(path).read_bytes()).decode()
    return f"<img alt='' src='data:image/png;base64,{data}'>"


def _quarantine(setup: Setup) -> str:
    bad = setup.dataset.scan.quarantined
    if not bad:
        return ""
    rows = "".join(f"<tr><td>{html.escape(b.name)}</td><td>{html.escape(b.reason)}</td></tr>" for b in bad)
    return f"<h2>Left aside: {counted(len(bad), 'file')}</h2><table>{rows}</table>"


def _notices(notices: Sequence[dict[str, Any]]) -> str:
    lines = "".join(f"<li class='{n['level']}'>{html.escape(n['message'])}</li>" for n in notices)
    return f"<h2>What was remarked</h2><ul>{lines}</ul>" if lines else ""


def _files(saved: Sequence[dict[str, Any]]) -> str:
    kept = {event["path"]: event for event in saved if Path(event["path"]).exists()}
    rows = "".join(
        f"<tr><td>step {event['step']}</td><td>{event['what']}</td><td><code>{html.escape(path)}</code></td></tr>"
        for path, event in kept.items()
    )
    return f"<h2>Files</h2><table>{rows}</table>" if rows else ""
