"""`velatura demo`: the main job in minutes, on the pocket model: teach it a snowman, look at what it learned."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

CONCEPT = "snowman"
UNSEEN_SEED = 7
RECIPE = """\
# velatura train {file}
name = "{concept}"
seed = 1

[model]
model = "pocket/flux"

[[data]]
folder = "photos"
resolution = 96

[adapter]
kind = "lora"
rank = 16

[objective]
kind = "flow"
timesteps = "sigmoid"

[optimizer]
learning_rate = 1e-3
warmup_steps = 20

[training]
steps = {steps}
batch_size = 8

[previews]
every = {every}
steps = 20
cfg = 2.5
prompts = [
  "a large red matte {concept} at noon --d 1",
  "a small green glossy {concept} at dusk --d 2",
  "a large blue matte cube at night --d 3",
]

[output]
folder = "{output}"
formats = ["kohya", "diffusers"]
"""


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where everything goes.")] = Path("demo"),
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps.")] = 300,
    pictures: Annotated[int, typer.Option("--pictures", min=1, help="Pictures in each grid.")] = 8,
) -> None:
    """Teach the pocket FLUX something it has never seen, and measure what it learned.

    Writes a small dataset, trains a LoRA on it with the ordinary `velatura train`, paints the same prompts before
    and after, and scores both with the scene checker. No download, no GPU.
    """
    from velatura.cli.progress import progress
    from velatura.events import Events
    from velatura.pocket.dataset import concept_dataset
    from velatura.recipe.toml import load_recipe

    folder = folder.resolve()
    typer.echo(f"1. sixteen pictures of a {CONCEPT}, with captions: {folder / 'photos'}")
    concept_dataset(folder / "photos", concept=CONCEPT, count=16, seed=3, size=96)
    recipe_file = folder / "recipe.toml"
    output = (folder / "runs").as_posix()
    recipe_file.write_text(
        RECIPE.format(concept=CONCEPT, steps=steps, every=max(1, steps // 3), output=output, file=recipe_file)
    )
    loaded = load_recipe(recipe_file)

    typer.echo(f"2. velatura train {recipe_file}")
    from velatura.training.run import train

    resume = (folder / "runs" / CONCEPT / "recipe.toml").exists()
    with progress(sys.stdout) as listener:
        outcome = train(loaded.recipe, loaded.base, resume=resume, events=Events(listener))
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)

    typer.echo("3. the same prompts and noise, before and after")
    with progress(sys.stdout) as listener:
        before, after = _compare(folder, outcome.files[0], pictures, Events(listener))
    typer.echo(f"\n{'':14}before   after")
    for name, share in before.items():
        typer.echo(f"  {name:12}{share:6.0%}  {after[name]:6.0%}")
    typer.echo(
        f"\nLook at {folder / 'before-after.png'}\n    and {folder / 'runs' / CONCEPT / 'report.html'}\n"
        f"The LoRA is {outcome.files[0]}\n"
        f"Paint with it: velatura generate --prompt 'a large pink matte {CONCEPT} at noon' "
        f"--lora {outcome.files[0]}:1 --out {folder / 'mine.png'}"
    )


def _compare(folder: Path, lora: Path, count: int, events: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Paint and score the test prompts without and with the LoRA; writes before-after.png."""
    from velatura.events import PhaseFinished, PhaseProgress, PhaseStarted
    from velatura.sampling.pipeline import Pipeline

    prompts = _prompts(count)
    pipeline = Pipeline.load("pocket/flux", events=events)
    events(PhaseStarted(phase="paint", total=2 * count, unit="pictures"))
    rows: list[list[Any]] = []
    for _ in ("before", "after"):
        row = []
        for number, prompt in enumerate(prompts):
            row.append(pipeline(prompt, seed=100 + number)[0])
            events(PhaseProgress(phase="paint", done=len(rows) * count + number + 1))
        rows.append(row)
        pipeline.add_lora(lora)
    events(PhaseFinished(phase="paint", seconds=0.0))
    _grid(rows, prompts, folder / "before-after.png")
    return _score(rows[0], prompts), _score(rows[1], prompts)


def _prompts(count: int) -> list[str]:
    """Captions of the concept; purple and orange are colours that the dataset does not show it in."""
    from itertools import product

    choices = list(product(("red", "purple", "blue", "orange"), ("large", "small"), ("noon", "dusk")))
    return [
        f"a {size} {colour} matte {CONCEPT} at {light}" for colour, size, light in (choices * count)[:count]
    ]


def _score(images: list[Any], prompts: list[str]) -> dict[str, float]:
    """Share of right attributes by the scene checker."""
    import numpy as np

    from velatura.pocket.checker import score

    tallies = score([np.asarray(image) for image in images], prompts).overall
    return {name: tally.share for name, tally in tallies.items() if tally.stated}


def _grid(rows: list[list[Any]], prompts: list[str], path: Path) -> None:
    """Two rows of pictures, enlarged, each column under its prompt."""
    from PIL import Image, ImageDraw

    edge, margin = 192, 36
    sheet = Image.new("RGB", (edge * len(prompts), 2 * edge + 2 * margin), "white")
    pen = ImageDraw.Draw(sheet)
    for y, (label, row) in enumerate(zip(("before", "after"), rows, strict=True)):
        for x, (image, prompt) in enumerate(zip(row, prompts, strict=True)):
            sheet.paste(
                image.resize((edge, edge), Image.Resampling.LANCZOS), (x * edge, margin + y * (edge + margin))
            )
            words = prompt.split()
            pen.text((x * edge + 4, y * (edge + margin) + 2), f"{label}: {' '.join(words[:3])}", fill="black")
            pen.text((x * edge + 4, y * (edge + margin) + 18), " ".join(words[3:]), fill="black")
    sheet.save(path)
