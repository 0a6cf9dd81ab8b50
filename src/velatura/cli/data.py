"""`velatura data`: look at a dataset before it is trained on, and let models caption and mask it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from velatura.cli import data_labels
from velatura.cli.console import echo
from velatura.cli.train import RecipeFile, Sets
from velatura.plural import counted

if TYPE_CHECKING:
    from velatura.data.checking.check import Checked

REFUSED = 2
app = typer.Typer(
    name="data",
    help="Look at a dataset before it is trained on, and let models caption and mask it.",
    no_args_is_help=True,
)
app.command("caption")(data_labels.caption)
app.command("mask")(data_labels.mask)


@app.command()
def check(
    recipe: RecipeFile,
    sets: Sets = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Where check.html and check.json go.",
            show_default="NAME-check, by the recipe's name",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what check.json holds instead of a summary.")
    ] = False,
) -> None:
    """Decode every image, word every caption, and show what training would see.

    Writes a page with pictures and a JSON with all items; trains nothing, and needs no model but its tokenizers.
    Exit codes: 0 training would start, though there may be warnings (what would be trained, and perhaps should
    not be: twins, blurred pictures, cut captions); 2 training would refuse the data.
    """
    from velatura.recipe.toml import read_recipe

    loaded = read_recipe(recipe, sets or [])  # the model need not be there

    from velatura.cli.progress import progress
    from velatura.data.checking.document import document_of
    from velatura.events import Events
    from velatura.training.data_check import check_data, write_check

    with progress(sys.stderr) as listener:
        checked = check_data(loaded.recipe, loaded.base, Events(listener))
        files = write_check(checked, out or Path(f"{loaded.recipe.name}-check"), Events(listener))
    if as_json:
        echo(json.dumps(document_of(checked), indent=1, ensure_ascii=False))
    else:
        for line in _summary(checked):
            echo(line)
        echo(f"look at {files[0]}; all items are in {files[1]}")
    if checked.refusals:
        raise typer.Exit(REFUSED)


def _summary(checked: Checked) -> list[str]:
    from velatura.data.checking.findings import MEANING

    uses, counts = checked.uses, checked.counts()
    epoch = (
        f"{counted(uses.images_per_epoch, 'use')} and {counted(uses.steps_per_epoch, 'step')} per epoch, "
        f"{uses.epochs:.2f} epochs"
    )
    left_out = counted(len(checked.quarantined), "file was", "files were")
    refused = [f"training would refuse: {reason}" for reason in checked.refusals]
    if not checked.items and not checked.quarantined:  # refused before anything was read
        return refused
    lines = [f"{counted(len(checked.items), 'image')}, {epoch}; {left_out} left out"]
    lines += [f"  {one}" for one in checked.quarantined[:10]]
    lines += [f"  {counts[kind]:6d}  {kind}: {MEANING[kind]}" for kind in MEANING if kind in counts]
    lines += [f"  {one}" for one in checked.warnings]
    return lines + refused
