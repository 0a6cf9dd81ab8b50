"""`velatura pocket`: the little world inside the package, its pictures, its model and its checker."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

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
    truth: Annotated[bool, typer.Option("--truth", help="Also depth, normals, masks and edges.")] = False,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help="Processes.")] = 1,
) -> None:
    """Draw scenes with captions: a dataset folder. A run that was stopped goes on where it was."""
    from velatura.pocket.dataset import write_dataset

    with _counted("render", count) as progress:
        split: Literal["train", "held-out"] = "held-out" if held_out else "train"
        write_dataset(out, count, seed, size, split, workers, truth, progress)
    typer.echo(f"{count} pictures with captions in {out}")


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
    typer.echo(f"{count} pictures of a {name} with captions in {out}")


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
    """Paint captions that the pocket model never saw, and say how many it got right."""
    from velatura.pocket.dataset import WorldSource
    from velatura.sampling.pipeline import Pipeline

    out.mkdir(parents=True, exist_ok=True)
    source = WorldSource(seed=seed, split="held-out")
    pipeline = Pipeline.load(model)
    with _counted("paint", count) as progress:
        for index in range(count):
            caption = source.text(index, source.scene(index))
            image = pipeline(caption, seed=index, steps=steps, cfg=cfg)[0]
            image.save(out / f"{index:06d}.png")
            (out / f"{index:06d}.txt").write_text(caption + "\n", encoding="utf-8")
            progress(index + 1, count)
    _print_score(out, as_json)


@app.command()
def check(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Pictures with captions.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the score as JSON.")] = False,
) -> None:
    """Say how many pictures of the pocket world show what their captions say, attribute by attribute."""
    _print_score(folder, as_json)


def _print_score(folder: Path, as_json: bool) -> None:
    import numpy as np
    from PIL import Image

    from velatura.errors import DataError
    from velatura.pocket.checker import score

    pictures = sorted(path for path in folder.glob("*.png") if path.with_suffix(".txt").is_file())
    if not pictures:
        raise DataError(f"{folder} has no pictures with captions: NAME.png beside NAME.txt")
    images = (np.asarray(Image.open(path).convert("RGB")) for path in pictures)
    captions = [path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in pictures]
    result = score(images, captions)
    typer.echo(result.to_json() if as_json else f"{result.pictures} pictures\n{result.table()}")


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
