"""report.html: one self-contained page that shows what a run saw, did and made."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from velatura.checkpoints.writing import write_bytes
from velatura.events import Event, Notice, RunEnded, StepFinished, StepLeftOut
from velatura.plural import counted
from velatura.recipe.training.validation import STABILIZED
from velatura.sampling.request import Request
from velatura.training.folder import OF_AVERAGE, RunFolder
from velatura.training.reporting.chart import chart
from velatura.training.reporting.curves import Point, running_means, window_of
from velatura.training.reporting.event_log import losses, phase_seconds, read_log, validation_losses
from velatura.training.reporting.figures import duration
from velatura.training.reporting.page import page, picture_cell
from velatura.training.reporting.pictures import facts_of, is_of_average, pictures
from velatura.training.reporting.report_files import files_section, resume_hint
from velatura.training.setup import Setup

RISEN = 1.02  # times its lowest: a validation loss that ends higher is remarked


def write_report(setup: Setup, folder: RunFolder) -> None:
    """Write the page from the run's event log and folder; called at the end of a run, however it ended.

    Raises StorageError.
    """
    log = read_log(folder.events)
    painted = list(pictures(folder.previews_page.parent))
    told = dict.fromkeys(event for event in log if isinstance(event, Notice))  # a resumed run repeats some
    for bad in setup.dataset.scan.quarantined:
        told.pop(Notice(message=bad.notice, level="warning"), None)  # they have a section
    body = [
        f"<h1>{html.escape(setup.recipe.name)}</h1>",
        _ending(log, folder),
        _summary(setup, log),
        _notices("Warnings", [notice for notice in told if notice.level == "warning"]),
        _losses(losses(log), validation_losses(log)),
        _previews(painted, folder.previews_page),
        files_section(setup, log, painted[0][2] if painted else None),
        _left_aside(setup),
        _notices("What was told on the way", [notice for notice in told if notice.level != "warning"]),
    ]
    data = page(setup.recipe.name, "".join(body)).encode(errors="replace")  # names of files may be no text
    write_bytes(folder.report, data)


def _ending(log: Sequence[Event], folder: RunFolder) -> str:
    """How it ended, and what to do where it is not done."""
    ended = [event for event in log if isinstance(event, RunEnded)]
    if not ended or ended[-1].how == "finished":
        return ""
    if ended[-1].how == "failed":
        why = html.escape(ended[-1].message)
        return f"<p class='warning'><b>The run failed:</b> {why}</p>{resume_hint(folder)}"
    return f"<p><b>The run was stopped.</b></p>{resume_hint(folder)}"


def _summary(setup: Setup, log: Sequence[Event]) -> str:
    steps = [event for event in log if isinstance(event, StepFinished)]
    plan = setup.dataset.plan.report()
    seconds = sum(step.seconds for step in steps)
    images = sum(step.images for step in steps)
    sizes = ", ".join(f"{width}x{height}: {count}" for (width, height), count in plan.buckets.items())
    data = f"{counted(setup.dataset.images, 'image')}, {counted(plan.steps, 'step')} per epoch"
    left_out = sum(isinstance(event, StepLeftOut) for event in log)
    rows = {
        "model": f"{setup.info.family} {setup.info.variant} ({_short(setup.files.model or setup.files.denoiser)})",
        "trained": _trained(setup),
        "data": f"{data}; uses per size: {sizes}",
        "steps": f"{steps[-1].step} of {steps[-1].steps}" if steps else f"0 of {setup.recipe.training.steps}",
        "time": f"steps took {duration(seconds)}, {images / seconds if seconds else 0:.2f} images per second",
        "phases": ", ".join(_phase(name, each) for name, each in phase_seconds(log).items()),
        "memory": f"{max((step.memory for step in steps), default=0) / 2**30:.2f} GiB at most",
        "computed in": f"{str(setup.dtype).removeprefix('torch.')} on {setup.device}",
        "steps skipped by fp16": str(steps[-1].skipped) if steps and steps[-1].skipped else "",
        "steps left out, not finite": str(left_out or ""),
    }
    cells = "".join(
        f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in rows.items() if text
    )
    return (
        f"<table>{cells}</table><p>The complete recipe is in <a href='recipe.toml'>recipe.toml</a> beside this "
        "page.</p>"
    )


def _short(place: str | None) -> str:
    """A hub id as it is, of a path on this machine its last part: the recipe has all of it."""
    return Path(place).name if place and Path(place).is_absolute() else place or ""


def _trained(setup: Setup) -> str:
    recipe = setup.recipe
    optimizer = recipe.optimizer
    what = (
        f"{recipe.adapter.kind}, rank {recipe.adapter.rank}" if recipe.adapter else ", ".join(setup.trained)
    )
    return f"{what}; {optimizer.kind}, learning rate {optimizer.learning_rate:g}, {optimizer.schedule}"


def _phase(name: str, each: Sequence[float]) -> str:
    return f"{name} {duration(sum(each))}" + (f" ({len(each)} times)" if len(each) > 1 else "")


def _losses(points: Sequence[Point], validations: Mapping[str, Sequence[Point]]) -> str:
    """Training loss smoothed over about 5 % of the run, and the losses of validations, in one frame."""
    window = window_of(points)
    name = f"training, mean of {counted(window, 'step')}" if window > 1 else "training"
    picture = chart([(name, running_means(points, window)), *validations.items()])
    if not picture:
        return ""
    told = "".join(f"<p class='warning'>{html.escape(line)}</p>" for line in _risen(validations))
    if not validations:
        told = (
            "<p class='aside'>There was no validation: a training loss cannot tell learning from memorising. "
            "<code>[validation]</code> with <code>share = 0.1</code> measures it on images held out.</p>"
        )
    return f"<h2>Loss</h2>{picture}{told}"


def _risen(validations: Mapping[str, Sequence[Point]]) -> list[str]:
    """What is said of validation losses that end higher than they were; training images say nothing of it."""
    lines = []
    for name, curve in validations.items():
        step, lowest = min(curve, key=lambda point: point[1])
        if name != STABILIZED and curve[-1][1] > RISEN * lowest > 0:
            lines.append(
                f"The loss of {name} was lowest after step {step:,} and ends {curve[-1][1] / lowest - 1:.0%} higher. "
                "Where the training loss falls meanwhile, the run memorises: what was saved near that step may be "
                "the better choice."
            )
    return lines


def _previews(painted: Sequence[tuple[int, Path, Request]], larger: Path) -> str:
    """One row per prompt, one column per step; and a link to the page where they are larger."""
    if not painted:
        return ""
    steps = sorted({step for step, _, _ in painted})
    rows: dict[tuple[Request, bool], dict[int, Path]] = {}
    for step, path, request in sorted(painted, key=lambda one: _place(one[1])):
        rows.setdefault((request, is_of_average(path)), {})[step] = path
    head = "".join(f"<th>{'before' if step == 0 else f'step {step:,}'}</th>" for step in steps)
    body = "".join(
        f"<tr><td class='prompt'>{_prompt(request, of_average)}</td>"
        + "".join(picture_cell(paths.get(step)) for step in steps)
        + "</tr>"
        for (request, of_average), paths in rows.items()
    )
    link = f"<p><a href='{larger.parent.name}/{larger.name}'>In full size, by step and prompt</a></p>"
    table = f"<div class='scroll'><table><tr><th>prompt</th>{head}</tr>{body}</table></div>"
    return f"<h2>Previews</h2>{table}{link if larger.exists() else ''}"


def _place(path: Path) -> tuple[str, bool]:
    """By its number; what the average painted comes after what the weights themselves painted."""
    return path.stem.removesuffix(OF_AVERAGE), is_of_average(path)


def _prompt(request: Request, of_average: bool) -> str:
    words = html.escape(request.prompt) or "<span class='none'>no prompt</span>"
    by = "<br><b>by the average of the weights</b>" * of_average
    return f"{words}{by}<br><small class='aside'>{html.escape(facts_of(request))}</small>"


def _left_aside(setup: Setup) -> str:
    """The files that cannot be used, by their folders."""
    bad = setup.dataset.scan.quarantined
    folders: dict[str, str] = {}
    for one in bad:
        folder, _, name = one.name.rpartition("/")
        row = f"<tr><td>{html.escape(name)}</td><td>{html.escape(one.reason)}</td></tr>"
        folders[folder] = folders.get(folder, "") + row
    tables = "".join(
        f"<p>In <code>{html.escape(folder or '.')}</code></p><table>{rows}</table>"
        for folder, rows in folders.items()
    )
    return f"<h2>Left aside: {counted(len(bad), 'file')}</h2>{tables}" if bad else ""


def _notices(title: str, notices: Sequence[Notice]) -> str:
    lines = "".join(f"<li class='{n.level}'>{html.escape(n.message)}</li>" for n in notices)
    return f"<h2>{title}</h2><ul>{lines}</ul>" if lines else ""
