"""The part of report.html that says what lies in the run's folder, and the commands that use it."""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from velatura.data.caches.cache_place import readable
from velatura.events import Event, FileSaved, StepFinished
from velatura.sampling.request import Request
from velatura.training.folder import RunFolder
from velatura.training.setup import Setup


def files_section(setup: Setup, log: Sequence[Event], painted: Request | None) -> str:
    """The files that are still there, and what to do with them; `painted` is the preview that is painted again."""
    kept = _kept(log, setup.folder)
    if not kept:
        return ""
    root = setup.folder.root
    rows = "".join(
        f"<tr><td>step {event.step:,}</td><td>{event.what}</td><td>{_link(path.relative_to(root))}</td>"
        f"<td>{readable(path.stat().st_size) if path.is_file() else ''}</td></tr>"
        for path, event in kept.items()
    )
    return f"<h2>Files</h2><table>{rows}</table>{_commands(setup, log, kept, painted)}"


def resume_hint(folder: RunFolder) -> str:
    """The command that goes on with a run that did not reach its end; nothing where its recipe was not saved yet."""
    if not folder.recipe.exists():
        return ""
    command = _command("velatura", "train", folder.recipe, "--resume")
    return f"<p>To go on with it from the last state:</p>{_shown(command)}"


def _kept(log: Sequence[Event], folder: RunFolder) -> dict[Path, FileSaved]:
    """What is there of all that was saved; the folder may have been moved since."""
    kept: dict[Path, FileSaved] = {}
    for event in log:
        if isinstance(event, FileSaved):
            told = Path(event.path)
            inside = told.name if event.what == "model" else Path(told.parent.name, told.name)
            if (path := folder.root / inside).exists():
                kept[path] = event
    return kept


def _link(path: Path) -> str:
    text = html.escape(path.as_posix(), quote=True)
    return f"<a href='{text}'>{text}</a>"


def _commands(
    setup: Setup, log: Sequence[Event], kept: Mapping[Path, FileSaved], painted: Request | None
) -> str:
    parts = []
    if adapters := [path for path, event in kept.items() if event.what == "adapter"]:
        plain = [path for path in adapters if path == setup.folder.adapter(kept[path].step, "")]
        command = _generate(setup.folder, (plain or adapters)[-1], painted)
        parts.append(f"<p>To paint with what it learned:</p>{_shown(command)}")
    steps = [event for event in log if isinstance(event, StepFinished)]
    if steps and steps[-1].step >= steps[-1].steps and any(event.what == "state" for event in kept.values()):
        longer = f"training.steps={2 * steps[-1].steps}"
        command = _command("velatura", "train", setup.folder.recipe, "--resume", "--set", longer)
        parts.append(f"<p>To train on from its end, for example twice as long:</p>{_shown(command)}")
    return "".join(parts)


def _generate(folder: RunFolder, adapter: Path, painted: Request | None) -> str:
    """The command that paints with an adapter, the last preview if there is one."""
    words = ["velatura", "generate", "--recipe", str(folder.recipe), "--lora", f"{adapter}:1"]
    words += ["--prompt", painted.prompt if painted else "what to paint"]
    if painted is not None:
        words += ["--seed", str(painted.seed), "--size", f"{painted.width}x{painted.height}"]
    return _command(*words, "--out", "picture.png")


def _command(*words: str | Path) -> str:
    return shlex.join(map(str, words))


def _shown(command: str) -> str:
    return f"<pre>{html.escape(command)}</pre>"
