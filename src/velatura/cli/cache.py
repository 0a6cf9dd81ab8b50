"""`velatura cache`: fill the caches ahead of training, verify them, and remove what is no longer used."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from velatura.cli.console import echo
from velatura.cli.train import RecipeFile, Sets
from velatura.errors import RecipeError
from velatura.plural import agreeing, counted

if TYPE_CHECKING:
    from velatura.events import Events

DAMAGED = 1
app = typer.Typer(
    name="cache",
    help="Fill, verify and clean the caches of latents and text embeddings.",
    no_args_is_help=True,
)

Place = Annotated[
    Path | None,
    typer.Argument(
        metavar="RECIPE|FOLDER",
        help="A recipe, whose cache is meant, or a cache folder.",
        show_default="the user's cache folder",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


@app.command()
def build(recipe: RecipeFile, sets: Sets = None, as_json: AsJson = False) -> None:
    """Encode images and captions as training would before its first step.

    What is there already is kept; stopped at any point, it goes on from there.
    """
    from velatura.recipe.toml import load_recipe

    loaded = load_recipe(recipe, sets or [])

    from velatura.cli.progress import progress
    from velatura.events import Events
    from velatura.training.cache_building import build_caches

    with progress(sys.stderr) as listener:
        built = build_caches(loaded.recipe, loaded.base, Events(listener))
    if as_json:
        facts = [
            {"kind": one.kind, "needed": one.needed, "encoded": one.encoded, "folder": str(one.folder)}
            for one in built
        ]
        echo(json.dumps(facts, indent=2))
        return
    for one in built:
        echo(f"{one.kind}: {one.needed} needed, {one.encoded} of them encoded now, in {one.folder}")


@app.command()
def verify(place: Place = None, as_json: AsJson = False) -> None:
    """Read every entry and compare its checksum; damaged files are removed, and made again when needed.

    Exit codes: 0 all is sound; 1 something was damaged.
    """
    folder = cache_folder_of(place)

    from velatura.cli.progress import progress
    from velatura.data.caches.cache_place import readable
    from velatura.data.caches.upkeep import usage
    from velatura.data.caches.upkeep import verify as verify_all
    from velatura.events import Events

    with progress(sys.stderr) as listener:
        found = verify_all(folder, Events(listener))
        uses = usage(folder, Events(listener))
    if as_json:
        caches = [
            {"kind": use.kind, "folder": str(use.folder), "entries": use.entries, "bytes": use.size}
            for use in uses
        ]
        facts = {
            "folder": str(folder),
            "sound": found.sound,
            "damaged_files": found.damaged,
            "caches": caches,
        }
        echo(json.dumps(facts, indent=2))
    else:
        sound = counted(found.sound, "entry is", "entries are")
        damaged = counted(found.damaged, "damaged file was", "damaged files were")
        echo(f"{folder}: {sound} sound, {damaged} removed")
        for use in uses:
            echo(f"  {use.kind:8} {use.entries:8d} entries {readable(use.size):>10}  {use.folder}")
    if found.damaged:
        raise typer.Exit(DAMAGED)


@app.command()
def gc(
    place: Place = None,
    days: Annotated[
        float | None,
        typer.Option("--days", min=0, help="Remove what was not used for so many days.", show_default=False),
    ] = None,
    keep: Annotated[
        list[Path] | None,
        typer.Option(
            "--keep",
            metavar="RECIPE",
            help="Remove only what this recipe does not use; may be repeated.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, remove nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove files from a cache: those that are old, those that no recipe uses, or those that are both.

    Files hold up to 64 MiB of entries each; one goes when none of its entries is to be kept.
    """
    if days is None and not keep:
        raise RecipeError(
            "what shall go? give --days N, or --keep RECIPE for each recipe that is still in use"
        )
    folder = cache_folder_of(place)

    from velatura.cli.progress import progress
    from velatura.data.caches.cache_place import readable
    from velatura.data.caches.upkeep import remove, unused
    from velatura.data.scanning.index import Index
    from velatura.events import Events

    with progress(sys.stderr) as listener:
        events = Events(listener)
        shards = unused(folder, events, days=days, keep=_keys_of(keep or [], events))
        size = sum(shard.size for shard in shards) if dry_run else remove(folder, shards)
        sources = 0 if dry_run or days is None else Index(folder, events).forget(days=days)
    if as_json:
        names = [str(shard.path) for shard in shards]
        facts = {"folder": str(folder), "removed": not dry_run, "bytes": size, "files": names}
        echo(json.dumps({**facts, "forgotten_sources": sources}, indent=2))
        return
    done = "would be removed" if dry_run else "removed"
    echo(f"{folder}: {counted(len(shards), 'file')}, {readable(size)}, {done}")
    if sources:
        forgotten = counted(sources, "data folder that was", "data folders that were")
        echo(f"{forgotten} not scanned for so long {agreeing(sources, 'is', 'are')} forgotten")


def cache_folder_of(place: Path | None) -> Path:
    """The cache folder that a recipe, a folder or nothing means. Raises RecipeError when there is none."""
    from velatura.checkpoints.cache_folder import default_cache_folder

    folder = default_cache_folder() if place is None else place
    if folder.is_file():
        from velatura.recipe.paths import with_absolute_paths
        from velatura.recipe.toml import read_recipe

        loaded = read_recipe(folder)
        chosen = with_absolute_paths(loaded.recipe, loaded.base).memory.cache_folder
        folder = Path(chosen or default_cache_folder())
    if not folder.is_dir():
        raise RecipeError(f"there is no cache folder at {folder}; `velatura cache build RECIPE` makes one.")
    return folder


def _keys_of(recipes: list[Path], events: Events) -> set[str]:
    """What these recipes use."""
    from velatura.recipe.toml import load_recipe
    from velatura.training.cache_building import needed_keys

    keys: set[str] = set()
    for path in recipes:
        loaded = load_recipe(path)
        keys |= needed_keys(loaded.recipe, loaded.base, events)
    return keys
