"""`velatura pocket`: the little world inside the package, its pictures, its model and its checker."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from velatura.plural import counted

app = typer.Typer(name="pocket", help="Draw, paint and check the pocket world.", no_args_is_help=True)

Out = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="Where the pictures go.", show_default=False)
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of every random choice.")]
Size = Annotated[int, typer.Option("--size", metavar="N", min=16, help="Edge in pixels.")]


@app.command()
def render(
    out: Out,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="How many pictures.")] = 100,
    seed: Seed = 0,
    size: Size = 96,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Scenes that the pocket model never saw.")
    ] = False,
    solids: Annotated[
        int | None,
        typer.Option(
            "--solids", metavar="N", min=1, max=3, help="How many in a scene.", show_default="one to three"
        ),
    ] = None,
    truth: Annotated[bool, typer.Option("--truth", help="Also depth, normals, masks and edges.")] = False,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help="Processes.")] = 1,
) -> None:
    """Draw scenes with captions: a dataset folder. A run that was stopped goes on where it was."""
    from velatura.pocket.dataset import write_dataset

    with _counted("render", count) as progress:
        split: Literal["train", "held-out"] = "held-out" if held_out else "train"
        write_dataset(out, count, seed, size, split, workers, truth, progress, solids)
    typer.echo(f"{counted(count, 'picture')} with captions in {out}")


@app.command()
def concept(
    out: Out,
    name: Annotated[str, typer.Option("--name", help="snowman or mushroom.")] = "snowman",
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="How many pictures.")] = 16,
    seed: Seed = 0,
    size: Size = 96,
) -> None:
    """Draw the small dataset of a thing that the pocket model has never seen: what to teach it by a LoRA."""
    from velatura.pocket.dataset import concept_dataset

    with _counted("render", count) as progress:
        concept_dataset(out, name, count, seed, size, progress)
    typer.echo(f"{counted(count, 'picture')} of a {name} with captions in {out}")


@app.command()
def sample(
    out: Out,
    model: Annotated[
        str, typer.Option("--model", metavar="ID", help="The model that paints.")
    ] = "pocket/flux",
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="How many pictures.")] = 200,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Sampling steps.", show_default="the model's")
    ] = None,
    cfg: Annotated[
        float | None, typer.Option("--cfg", metavar="X", help="Guidance.", show_default="the model's")
    ] = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the score as JSON.")] = False,
) -> None:
    """Paint captions that the pocket model never saw, and say how many it got right.

    FOLDER must be new or empty, so that only what was painted now is scored; `check` scores a folder again.
    """
    _refuse_used(out)

    from velatura.cli.progress import progress
    from velatura.data.progress import phase
    from velatura.events import Events
    from velatura.pocket.dataset import WorldSource
    from velatura.sampling.pipeline import Pipeline

    source = WorldSource(seed=seed, split="held-out")
    painted = []
    with progress(sys.stderr) as listener:
        events = Events(listener)
        pipeline = Pipeline.load(model, events=events)
        out.mkdir(parents=True, exist_ok=True)
        with phase(events, "paint", count, "pictures") as done:
            for index in range(count):
                caption = source.text(index, source.scene(index))
                path = out / f"{index:06d}.png"
                pipeline(caption, seed=index, steps=steps, cfg=cfg)[0].save(path)
                path.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
                painted.append(path)
                done.advance()
    _print_score(painted, as_json)


@app.command()
def check(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Pictures with captions.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the score as JSON.")] = False,
) -> None:
    """Say how many pictures of the pocket world show what their captions say, attribute by attribute."""
    from velatura.errors import DataError

    pictures = sorted(path for path in folder.glob("*.png") if path.with_suffix(".txt").is_file())
    if not pictures:
        raise DataError(f"{folder} has no pictures with captions: NAME.png beside NAME.txt")
    _print_score(pictures, as_json)


def _refuse_used(folder: Path) -> None:
    """A folder with anything in it that can be seen. Raises RecipeError."""
    from velatura.errors import RecipeError

    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"--out {folder} is a file; wanted: a folder for the pictures, new or empty")
    found = sorted(entry.name for entry in folder.glob("*") if not entry.name.startswith("."))
    if found:
        raise RecipeError(
            f"--out {folder} is not empty ({counted(len(found), 'entry', 'entries')}, the first is {found[0]}). Only "
            "what is painted now may be scored: give a new or empty folder, or remove what is in this one. "
            f"To score it as it is: velatura pocket check {folder}"
        )


def _print_score(pictures: list[Path], as_json: bool) -> None:
    """Score pictures, each against the caption beside it."""
    import numpy as np
    from PIL import Image

    from velatura.pocket.checker import score

    images = (np.asarray(Image.open(path).convert("RGB")) for path in pictures)
    captions = [path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in pictures]
    result = score(images, captions)
    typer.echo(result.to_json() if as_json else f"{counted(result.pictures, 'picture')}\n{result.table()}")


@contextmanager
def _counted(phase: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Shows a phase that reports (done, total)."""
    from velatura.cli.progress import progress
    from velatura.events import PhaseFinished, PhaseProgress, PhaseStarted

    begun = time.monotonic()
    with progress(sys.stderr) as listener:
        listener(PhaseStarted(phase=phase, total=total, unit="pictures"))
        yield lambda done, of: listener(PhaseProgress(phase=phase, done=done))
        listener(PhaseFinished(phase=phase, seconds=time.monotonic() - begun))
