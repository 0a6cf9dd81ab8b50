"""`velatura pocket`: the little world inside the package, its pictures, its model and its checker."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from velatura.cli.console import echo
from velatura.plural import counted

app = typer.Typer(name="pocket", help="Draw, paint and check the pocket world.", no_args_is_help=True)

Out = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="Where the pictures go.", show_default=False)
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of every random choice.")]
Size = Annotated[int, typer.Option("--size", metavar="N", min=16, max=4096, help="Edge in pixels.")]
Count = Annotated[int, typer.Option("--count", metavar="N", min=1, max=1_000_000, help="How many pictures.")]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="cuda, cuda:1, mps, cpu or auto.")]


@app.command()
def render(
    out: Out,
    count: Count = 100,
    seed: Seed = 0,
    size: Size = 96,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Draw scenes of the kind that the pocket model never saw.")
    ] = False,
    solids: Annotated[
        int | None,
        typer.Option(
            "--solids",
            metavar="N",
            min=1,
            max=3,
            help="How many solids a scene has.",
            show_default="one to three",
        ),
    ] = None,
    truth: Annotated[
        bool, typer.Option("--truth", help="Also write depth, normals, masks and edges.")
    ] = False,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, max=256, help="Processes that draw.")
    ] = 1,
) -> None:
    """Draw scenes with captions: a dataset folder. A run that was stopped goes on where it was."""
    from velatura.pocket.dataset import write_dataset

    with _counted("render", count) as progress:
        split: Literal["train", "held-out"] = "held-out" if held_out else "train"
        write_dataset(out, count, seed, size, split, workers, truth, progress, solids)
    echo(f"{counted(count, 'picture')} with captions in {out}")


@app.command()
def concept(
    out: Out,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Which thing: snowman or mushroom.")
    ] = "snowman",
    count: Count = 16,
    seed: Seed = 0,
    size: Size = 96,
) -> None:
    """Draw the small dataset of a thing to teach by a LoRA.

    The pocket model has never seen it.
    """
    from velatura.pocket.dataset import concept_dataset

    with _counted("render", count) as progress:
        concept_dataset(out, name, count, seed, size, progress)
    echo(f"{counted(count, 'picture')} of a {name} with captions in {out}")


@app.command()
def sample(
    out: Out,
    model: Annotated[
        str,
        typer.Option("--model", metavar="ID", help="The model that paints: a diffusers folder or a hub id."),
    ] = "pocket/flux",
    count: Count = 200,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Sampling steps.", show_default="the model's")
    ] = None,
    cfg: Annotated[
        float | None,
        typer.Option(
            "--cfg", metavar="X", help="Classifier-free guidance; 1 is off.", show_default="the model's"
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", min=0, help="Of the scenes; picture i has the noise of seed i."),
    ] = 0,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the score as JSON, not as a table.")] = False,
) -> None:
    """Paint held-out captions, and score the pictures.

    The score says how many show what their captions say. FOLDER must be new or empty, so that only what was painted
    now is scored; `check` scores a folder again. Ctrl-C stops; what was painted is kept.
    """
    _refuse_used(out)

    from velatura.cli.progress import progress
    from velatura.data.progress import phase
    from velatura.events import Events
    from velatura.pocket.dataset import WorldSource
    from velatura.sampling.pipeline import Pipeline
    from velatura.sampling.png import save_png
    from velatura.sampling.request import Request

    source = WorldSource(seed=seed, split="held-out")
    painted: list[Path] = []
    try:
        with progress(sys.stderr) as listener:
            events = Events(listener)
            pipeline = Pipeline.load(model, device=device, events=events)
            request = pipeline.complete(Request(prompt="", steps=steps, cfg=cfg))
            out.mkdir(parents=True, exist_ok=True)
            with phase(events, "paint", count, "pictures") as done:
                for index in range(count):
                    caption = source.text(index, source.scene(index))
                    path = out / f"{index:06d}.png"
                    current = replace(request, prompt=caption, seed=index)
                    save_png(pipeline.paint(current)[0], path, current, {})
                    path.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
                    painted.append(path)
                    done.advance()
    except KeyboardInterrupt:
        kept = counted(len(painted), "picture is", "pictures are")
        echo(f"{kept} kept in {out}; to score what is there: velatura pocket check {out}", err=True)
        raise
    _print_score(painted, as_json)


@app.command()
def check(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Pictures with captions.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the score as JSON, not as a table.")] = False,
) -> None:
    """Score pictures of the pocket world.

    Says how many show what their captions say, attribute by attribute.
    """
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
    echo(result.to_json() if as_json else f"{counted(result.pictures, 'picture')}\n{result.table()}")


@contextmanager
def _counted(name: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Shows a phase that reports (done, total)."""
    from velatura.cli.progress import progress
    from velatura.data.progress import phase
    from velatura.events import Events

    with progress(sys.stderr) as listener, phase(Events(listener), name, total, "pictures") as current:
        yield lambda done, of: current.advance(done - current.done)
