"""`velatura data caption` and `velatura data mask`: what a model sees, written beside the pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from velatura.cli.console import echo
from velatura.cli.train import Sets
from velatura.data.denials import denial_told
from velatura.errors import RecipeError
from velatura.plural import agreeing, counted

if TYPE_CHECKING:
    from velatura.data.labelling.run import Kind, Labelled, Labeller
    from velatura.data.labelling.targets import Targets
    from velatura.recipe.data.sources.folder import FolderData

T = TypeVar("T")

_SHOWN = 20  # pictures that were skipped

Source = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE|FOLDER",
        help="A folder of pictures, or a recipe, whose folders are meant.",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", metavar="FOLDER|ID", help="A model's folder, or its id on the hub.", show_default=False
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Also replace what is there already.")]
Recursive = Annotated[bool, typer.Option("--recursive", help="Of a folder: also read its sub-folders.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Pictures at a time.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON what was done.")]


def caption(
    source: Source,
    model: Model,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            help="What the caption begins with (BLIP), the task (Florence-2), or the question (models that chat).",
            show_default="the model's own",
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest caption.")] = 128,
    extension: Annotated[
        str, typer.Option("--extension", help="Of a folder: what caption files end in.")
    ] = ".txt",
    recursive: Recursive = False,
    overwrite: Overwrite = False,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Write a caption beside each picture that has none.

    The model is any image-to-text model of the transformers library. Stopped at any point, it goes on from there.
    Pictures that cannot be read are listed and skipped.
    """
    sections, base = _folders(source, sets, recursive=recursive, extension=extension)

    from velatura.data.labelling.captioner import Captioner
    from velatura.data.labelling.run import CAPTIONS
    from velatura.data.labelling.targets import caption_targets
    from velatura.placement.device import choose_device

    def captioner() -> Captioner:
        return Captioner(model, device=choose_device(device), prompt=prompt, max_tokens=max_tokens)

    targets = caption_targets(sections, base, overwrite=overwrite)
    done = _labelled(targets, captioner, CAPTIONS, batch_size)
    _tell("caption", targets, done, as_json=as_json)


def mask(
    source: Source,
    model: Model,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="NAME",
            help="What is white in the masks, by the model's own names; may be repeated.",
            show_default="all but the background",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Of a folder: where its masks go, such as 'masks' or 'masks/*_mask'.",
            show_default="FOLDER-masks",
        ),
    ] = None,
    recursive: Recursive = False,
    overwrite: Overwrite = False,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Write a loss mask for each picture that has none: white where the model sees what is wanted.

    The model is any semantic segmentation model of the transformers library. Masks go where `masks` of the recipe's
    table says. Stopped at any point, it goes on from there. Pictures that cannot be read, or in which nothing is
    found, are listed and skipped.
    """
    sections, base = _folders(source, sets, recursive=recursive, out=out)

    from velatura.data.labelling.run import MASKS
    from velatura.data.labelling.segmenter import Segmenter
    from velatura.data.labelling.targets import mask_targets
    from velatura.placement.device import choose_device

    def segmenter() -> Segmenter:
        return Segmenter(model, device=choose_device(device), labels=labels or [])

    targets = mask_targets(sections, base, overwrite=overwrite, out=out)
    done = _labelled(targets, segmenter, MASKS, batch_size)
    _tell("mask", targets, done, as_json=as_json)


@denial_told()
def _folders(
    source: Path, sets: list[str] | None, *, recursive: bool, extension: str = ".txt", out: str | None = None
) -> tuple[list[FolderData], Path]:
    """The folders that are meant, and where relative ones start."""
    from velatura.recipe.data.sources.folder import FolderData

    if source.is_dir():
        if sets:
            raise RecipeError("--set changes a recipe, and this is a folder.")
        ending = extension if extension.startswith(".") else f".{extension}"
        return [FolderData(folder=str(source), recursive=recursive, caption_extension=ending)], Path()
    if out is not None:
        raise RecipeError(
            "--out goes with a folder of pictures; in a recipe, masks of the [[data]] table says where."
        )
    if recursive or extension != ".txt":
        given = "--recursive" if recursive else "--extension"
        raise RecipeError(
            f"{given} goes with a folder of pictures; the recipe's [[data]] tables say that themselves."
        )
    from velatura.data.labelling.targets import folders_of
    from velatura.recipe.toml import read_recipe

    loaded = read_recipe(source, sets or [])  # masks need not be there
    return folders_of(loaded.recipe.data, loaded.base), loaded.base


def _labelled(targets: Targets, model: Callable[[], Labeller[T]], kind: Kind[T], batch_size: int) -> Labelled:
    """Let a model see to what is to be done; it is loaded only where there is something."""
    from velatura.cli.progress import progress
    from velatura.data.labelling.run import Labelled, label
    from velatura.events import Events

    if not targets.todo:
        return Labelled()
    with progress(sys.stderr) as listener:
        return label(targets.todo, model(), kind, Events(listener), batch_size=batch_size)


def _tell(what: str, targets: Targets, done: Labelled, *, as_json: bool) -> None:
    skipped = [*targets.skipped, *done.skipped]
    if as_json:
        facts = {
            "written": done.written,
            "already_there": targets.there,
            "skipped": [{"name": name, "reason": reason} for name, reason in skipped],
        }
        echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    are = agreeing(targets.there, "was", "were")
    pictures = counted(len(skipped), "picture was", "pictures were")
    echo(f"{counted(done.written, what)} written, {targets.there:,} {are} there already, {pictures} skipped")
    for name, reason in skipped[:_SHOWN]:
        echo(f"  {name}: {reason}")
    if len(skipped) > _SHOWN:
        echo(f"  … and {len(skipped) - _SHOWN:,} more")
    for folder, masks in targets.unnamed.items():
        echo(f"to train with them: masks = {json.dumps(masks)} beside folder = {json.dumps(folder)}")
