"""What stays of what a run saves: the newest few, and those at round steps."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from velatura.events import Events
from velatura.training.folder import RunFolder
from velatura.training.setup import Setup

LABELS = "kohya|diffusers|comfy|ema"  # that set files of one step apart


def kept(steps: Iterable[int], *, newest: int, keep: int | None, every: int | None) -> set[int]:
    """Of the steps up to `newest` the last `keep` (None: all), and the multiples of `every`."""
    made = sorted(step for step in steps if step <= newest)
    last = made if keep is None else made[-keep:]
    return {*last, *(step for step in made if every is not None and step % every == 0)}


def steps_of(states: Path) -> list[int]:
    """The steps of the states in a folder, damaged ones too, in order."""
    if not states.is_dir():
        return []
    return sorted(int(entry.name) for entry in states.iterdir() if entry.name.isdigit() and entry.is_dir())


def prune_states(states: Path, *, newest: int, keep: int, every: int | None) -> None:
    """Remove old states, later ones (the run went back behind them), and what a kill left half written."""
    steps = steps_of(states)
    staying = kept(steps, newest=newest, keep=keep, every=every)
    for step in steps:
        if step not in staying:
            shutil.rmtree(states / f"{step:06d}", ignore_errors=True)
    for staged in states.glob(".*.staged"):
        shutil.rmtree(staged, ignore_errors=True)


def prune_exports(setup: Setup, newest: int, events: Events) -> None:
    """Remove old adapter files and models, as far as output.keep_exports says so; what has another name stays.

    What cannot be removed is a warning.
    """
    output, exports = setup.recipe.output, _exports(setup.folder)
    staying = kept(exports, newest=newest, keep=output.keep_exports, every=output.keep_every)
    for step, paths in exports.items():
        for path in paths if step <= newest and step not in staying else ():
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            except OSError as error:
                events.warn(
                    f"{path} is older than output.keep_exports says, and cannot be removed: {error.strerror}"
                )


def _exports(folder: RunFolder) -> dict[int, list[Path]]:
    """All that the run exported, by step."""
    found: dict[int, list[Path]] = {}
    name = re.compile(rf"(?:{re.escape(folder.name)}|model)-(\d{{6,}})(?:-(?:{LABELS}))*(?:\.safetensors)?")
    places = (folder.adapter(0, "").parent.glob("*.safetensors"), folder.model(0).parent.glob("model-*"))
    for path in (path for place in places for path in place):
        if matched := name.fullmatch(path.name):
            found.setdefault(int(matched[1]), []).append(path)
    return found
