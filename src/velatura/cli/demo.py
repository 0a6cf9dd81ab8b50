"""`velatura demo`: the main job in minutes, on the pocket model: teach it a snowman, look at what it learned."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from velatura.cli.console import echo
from velatura.errors import RecipeError

CONCEPT = "snowman"
SEED, EDGE = 3, 96  # of the dataset
MARK = "demo.json"  # in a demo's folder: what it was made with
RECIPE = """\
# velatura train recipe.toml
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
timesteps = "shift"  # shapes are decided while there is much noise
shift = 3.0

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
folder = {output}
formats = ["kohya", "diffusers"]
"""


def demo(
    folder: Annotated[
        Path,
        typer.Option(
            "--folder",
            metavar="FOLDER",
            help="Where everything goes; where something else is there already, a new folder beside it: demo-2.",
        ),
    ] = Path("demo"),
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Training steps.")] = 300,
    pictures: Annotated[
        int, typer.Option("--pictures", metavar="N", min=1, max=64, help="Pictures in each of the two rows.")
    ] = 8,
) -> None:
    """Teach the pocket FLUX something new, and measure it.

    Writes a small dataset, trains a LoRA on it with the ordinary `velatura train`, paints the same prompts before
    and after, and scores both with the scene checker. No download, no GPU. Stopped, it goes on where it was.
    """
    from velatura.cli.progress import progress
    from velatura.events import Events
    from velatura.pocket.dataset import concept_dataset
    from velatura.recipe.toml import load_recipe

    folder = begin(folder.resolve())
    echo(f"1. sixteen pictures of a {CONCEPT}, with captions: {folder / 'photos'}")
    concept_dataset(folder / "photos", concept=CONCEPT, count=16, seed=SEED, size=EDGE)
    recipe_file = folder / "recipe.toml"
    recipe_file.write_text(recipe_text(folder, steps), encoding="utf-8")
    loaded = load_recipe(recipe_file)

    echo(f"2. velatura train {recipe_file}")
    from velatura.training.run import train
    from velatura.training.states.resuming import Resume

    resume = (folder / "runs" / CONCEPT / "recipe.toml").exists()
    with progress(sys.stdout) as listener:
        outcome = train(
            loaded.recipe, loaded.base, resume=Resume() if resume else None, events=Events(listener)
        )
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)

    echo("3. the same prompts and noise, before and after")
    with progress(sys.stdout) as listener:
        before, after = _compare(folder, outcome.files[0], pictures, Events(listener))
    echo(f"\n{'':14}before   after")
    for name, share in before.items():
        echo(f"  {name:12}{share:6.0%}  {after[name]:6.0%}")
    echo(
        f"\nLook at {folder / 'before-after.png'}\n    and {folder / 'runs' / CONCEPT / 'report.html'}\n"
        f"The LoRA is {outcome.files[0]}\n"
        f"Paint with it: velatura generate --prompt 'a large pink matte {CONCEPT} at noon' "
        f"--lora {quote(f'{outcome.files[0]}:1')} --out {quote(str(folder / 'mine.png'))}"
    )


def begin(folder: Path) -> Path:
    """The folder to begin or to go on in: `folder`, unless it holds something else; then the next one, `demo-2`.

    What the demo did not make with this same model, world and version is left as it is. Raises RecipeError.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise RecipeError(
            f"--folder {folder} is no Unicode text, and a recipe must be: give another one"
        ) from None
    made_with = _made_with().encode()
    for number in itertools.count(1):
        place = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            break
        if (place / MARK).is_file() and (place / MARK).read_bytes() == made_with:
            return place
    if place != folder:
        echo(f"{folder} holds something else: this goes to {place}")
    place.mkdir(parents=True, exist_ok=True)
    (place / MARK).write_bytes(made_with)
    return place


def recipe_text(folder: Path, steps: int) -> str:
    """The recipe of the demo in a folder."""
    from velatura.recipe.plain_toml import toml_value

    output = toml_value((folder / "runs").as_posix())
    return RECIPE.format(concept=CONCEPT, steps=steps, every=max(1, steps // 3), output=output)


def _made_with() -> str:
    """What decides whether a demo that was stopped can go on: JSON."""
    import velatura
    from velatura.families.registry import family_for, family_named, files_of
    from velatura.pocket.dataset import ConceptSource
    from velatura.pocket.renderer import draw

    section = family_named("pocket/flux", Path())
    model = family_for(section).inspect(files_of(section, Path())).fingerprints
    scene = ConceptSource(seed=SEED, concept=CONCEPT).scene(0)
    world = hashlib.sha256(scene.to_json().encode() + draw(scene, EDGE).tobytes()).hexdigest()
    recipe = hashlib.sha256(RECIPE.encode()).hexdigest()
    facts = {"velatura": velatura.__version__, "recipe": recipe, "world": world, "model": dict(model)}
    return json.dumps(facts, indent=2) + "\n"


def _compare(folder: Path, lora: Path, count: int, events: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Paint and score the test prompts without and with the LoRA; writes before-after.png."""
    from velatura.data.progress import phase
    from velatura.sampling.pipeline import Pipeline

    prompts = _prompts(count)
    pipeline = Pipeline.load("pocket/flux", events=events)
    rows: list[list[Any]] = []
    with phase(events, "paint", 2 * count, "pictures") as painted:
        for _ in ("before", "after"):
            row = []
            for number, prompt in enumerate(prompts):
                row.append(pipeline(prompt, seed=100 + number)[0])
                painted.advance()
            rows.append(row)
            pipeline.add_lora(lora)
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
