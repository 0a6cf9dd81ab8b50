"""`velatura plan`: what a recipe will cost in memory and time, and the settings that fit, before a weight is read."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from velatura.cli.console import echo
from velatura.cli.train import RecipeFile, Sets


def plan(
    recipe: RecipeFile,
    sets: Sets = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="What may be used of the device, for example 24GiB; the settings that fit are looked for.",
            show_default="the recipe's memory.budget, or what is free on the device",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="NAME",
            help="h200, h100, a100-80, 4090, 3090, l4 and others, wherever they are; cpu, cuda, mps here.",
            show_default="the recipe's",
        ),
    ] = None,
    efficiency: Annotated[
        float | None,
        typer.Option(
            "--efficiency",
            min=0.01,
            max=1.0,
            help="Share of its peak arithmetic that a device which is not here reaches.",
            show_default="0.8",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="SIZE",
            help="The machine's own memory beside a GPU, for example 64GiB: no settings are chosen that need more.",
            show_default="this machine's for a GPU that is here, else not limited",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON, sizes in bytes.")] = False,
) -> None:
    """Say what RECIPE needs in each phase, and how long a step takes; with a budget also the settings that fit it.

    Neither the model's files nor the data need be there: published shapes and the recipe's resolutions are taken then.
    Exit codes: 0 it fits; 3 it cannot fit; 2 a mistake in the recipe, the data or the model's files.
    """
    from velatura.recipe.byte_sizes import size_in_bytes

    given = None if memory is None else size_in_bytes(memory)
    beside = None if host is None else size_in_bytes(host)

    from velatura.recipe.toml import read_recipe

    loaded = read_recipe(recipe, sets or [])  # before torch is imported: mistakes are told at once

    from velatura.cli.progress import progress
    from velatura.events import Events
    from velatura.planning.choose import NO_FIT
    from velatura.planning.devices import device_named, with_host
    from velatura.planning.proposing import plan as make_plan
    from velatura.planning.table import document, lines

    target = device_named(device or loaded.recipe.training.device, efficiency=efficiency)
    if beside is not None:
        target = with_host(target, beside)
    if given is not None:
        budget = given
    else:
        budget = size_in_bytes(own) if (own := loaded.recipe.memory.budget) else target.budget
    with progress(sys.stderr) as listener:
        made = make_plan(loaded.recipe, loaded.base, target, budget, Events(listener))
    if as_json:
        echo(json.dumps(document(made), indent=2))
    else:
        echo("\n".join(lines(made)))
    if not made.fits:
        raise typer.Exit(NO_FIT)
