"""`velatura train`: a recipe becomes a trained adapter or model."""

from __future__ import annotations

import sys
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from velatura.cli.console import echo

if TYPE_CHECKING:
    from velatura.events import Events
    from velatura.recipe.recipe import Recipe
    from velatura.training.setup import Setup

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
    resume_at: Annotated[
        int | None,
        typer.Option(
            "--resume-at",
            metavar="STEP",
            min=0,
            help="Go on from the state of this step; later ones are removed once the next is saved.",
            show_default=False,
        ),
    ] = None,
    force_change: Annotated[
        list[str] | None,
        typer.Option(
            "--force-change",
            metavar="KEY",
            help="Go on although this key of the recipe (or a section, 'data' or 'model') is not what it was when the "
            "state was saved; may be repeated.",
            show_default=False,
        ),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            "--init-from",
            metavar="PATH",
            help="Begin with the weights of a state's folder of another run, an adapter file, or (full training) a "
            "model; with a fresh optimizer, at step 0. Sets adapter.init_from or full.init_from.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything, load the data, print the plan, train nothing."),
    ] = False,
) -> None:
    """Train what RECIPE says.

    Exit codes: 0 finished; 75 stopped and saved (--resume goes on); 2 a mistake in the recipe, the data or the
    model's files; 3 a memory.budget that cannot be met; 1 anything else. Ctrl-C, or a file `stop` in the run's
    folder, finishes the step, saves and stops; a second Ctrl-C stops at once. SIGUSR1, or a file `save`, saves a state
    and goes on.
    """
    from velatura.errors import RecipeError
    from velatura.recipe.plain_toml import toml_value
    from velatura.recipe.toml import load_recipe, read_recipe
    from velatura.training.distribution.launch import launched, of_one_voice
    from velatura.training.stop import answering_early

    launch = launched()
    with answering_early(echo if launch.rank == 0 else lambda message: None) as early:
        changes = list(sets or [])
        with of_one_voice(launch):  # before torch is imported: mistakes are told at once
            loaded = read_recipe(recipe, changes)
            going_on = resume or resume_at is not None or loaded.recipe.training.resume is not None
            section = "full" if loaded.recipe.adapter is None else "adapter"
            if init_from is not None:
                changes.append(f"{section}.init_from={toml_value(str(init_from.expanduser().absolute()))}")
            # a run that goes on may do without
            loaded = load_recipe(recipe, changes, may_lack=[(section, "init_from")] if going_on else ())
            if force_change and not going_on:
                raise RecipeError(
                    "--force-change is for a run that is resumed: with --resume, --resume-at or training.resume"
                )

        from velatura.cli.progress import progress
        from velatura.data.progress import phase
        from velatura.events import Events

        with progress(sys.stdout) if launch.rank == 0 else nullcontext() as listener:
            events = Events(listener) if listener else Events()
            with phase(events, "starting", 0):  # torch takes seconds to import, from a cold disk many
                from velatura.training.run import train as run
                from velatura.training.states.resuming import Resume
            early.end()

            how = Resume(step=resume_at, forced=tuple(force_change or ())) if going_on else None
            outcome = run(
                loaded.recipe,
                loaded.base,
                resume=how,
                dry_run=dry_run,
                events=events,
                reread=lambda: read_recipe(recipe, changes).recipe,
                planner=_decide,
            )
    raise typer.Exit(outcome.exit_code)


def _decide(setup: Setup, keys: Collection[str], events: Events) -> Recipe:
    """Plan the placement; what that takes is imported only where there is something to plan."""
    if setup.recipe.memory.budget is None and setup.device.type != "cuda":
        return setup.recipe
    from velatura.planning.deciding import decide

    return decide(setup, keys, events)
