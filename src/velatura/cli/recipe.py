"""`velatura recipe`: a starter to begin with, a check, and the schema for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from velatura.cli.console import echo
from velatura.cli.train import RecipeFile, Sets
from velatura.errors import RecipeError, StorageError

app = typer.Typer(name="recipe", help="Write, check and describe recipes.", no_args_is_help=True)


@app.command()
def new(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help="flux-lora, flux-full, sd1-lora or pocket-lora.", show_default=False
        ),
    ],
) -> None:
    """Print a commented starter recipe.

    For example: velatura recipe new flux-lora > flux-lora.toml
    """
    from velatura.recipe.starter import starter

    echo(starter(kind), nl=False)


@app.command()
def check(
    recipe: RecipeFile,
    sets: Sets = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the whole recipe with defaults filled in.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the mistakes as JSON.")] = False,
) -> None:
    """Check a recipe without loading anything.

    Also that the files and folders it names are there, and that the model can paint the sizes and options of the
    preview lines, as far as its configs tell. Exit codes: 0 no mistake; 2 mistakes.
    """
    from velatura.recipe.problems import InvalidRecipe
    from velatura.recipe.toml import dump_recipe, load_recipe

    try:
        loaded = load_recipe(recipe, sets or [])
    except RecipeError as error:
        if not as_json:
            raise
        whole = [{"place": "", "where": "", "what": str(error), "hint": ""}]  # no TOML, or no file at all
        mistakes = error.record() if isinstance(error, InvalidRecipe) else whole
        echo(json.dumps({"valid": False, "mistakes": mistakes}, indent=2))
        raise typer.Exit(error.exit_code) from None
    if as_json:
        echo(json.dumps({"valid": True, "recipe": loaded.recipe.model_dump(mode="json")}, indent=2))
    elif resolved:
        echo(dump_recipe(loaded.recipe), nl=False)
    else:
        echo(f"{recipe}: no mistakes")


@app.command()
def schema(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write to a file.", show_default=False)
    ] = None,
) -> None:
    """Print the JSON schema of recipes.

    Editors use it to complete and check TOML.
    """
    from velatura.recipe.json_schema import recipe_schema

    text = json.dumps(recipe_schema(), indent=2) + "\n"
    if out is None:
        echo(text, nl=False)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"--out {out} cannot be written: {error.strerror}; wanted: a file") from None
