"""`velatura train`: a recipe becomes a trained adapter or model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="The recipe, a TOML file.", show_default=False)
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Change one value of the recipe, for example training.steps=200; may be repeated.",
        show_default=False,
    ),
]


def train(
    recipe: RecipeFile,
    sets: Sets = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last saved state of this run.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything, load the data, print the plan, train nothing."),
    ] = False,
) -> None:
    """Train what RECIPE says.

    Exit codes: 0 finished; 75 stopped and saved (--resume goes on); 2 a mistake in the recipe, the data or the
    model's files; 1 anything else. Ctrl-C finishes the step, saves and stops; a second one stops at once.
    """
    from velatura.recipe.toml import load_recipe

    loaded = load_recipe(recipe, sets or [])  # before torch is imported: mistakes are told at once

    from velatura.cli.progress import progress
    from velatura.events import Events
    from velatura.training.run import train as run

    with progress(sys.stdout) as listener:
        outcome = run(loaded.recipe, loaded.base, resume=resume, dry_run=dry_run, events=Events(listener))
    raise typer.Exit(outcome.exit_code)
