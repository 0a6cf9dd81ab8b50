"""From a recipe to what a run knows before anything is loaded: model, data, device, folder."""

from __future__ import annotations

from pathlib import Path

from velatura.events import Events
from velatura.families.attending import attention_for
from velatura.families.registry import family_for, files_of
from velatura.objectives.registry import objective_for
from velatura.placement.device import choose_dtype
from velatura.recipe.recipe import Recipe
from velatura.training.dataset import prepare_dataset
from velatura.training.distribution.joining import device_for
from velatura.training.distribution.sharding import is_sharded
from velatura.training.distribution.team import Team
from velatura.training.folder import RunFolder
from velatura.training.setup import Setup
from velatura.training.starting import files_to_begin_with


def settle(recipe: Recipe, base: Path, events: Events, team: Team | None = None) -> Setup:
    """Find the model, read the data; `recipe` has absolute paths. Raises as `train` does."""
    family = family_for(recipe.model)
    files = files_to_begin_with(files_of(recipe.model, base), recipe)
    info = family.inspect(files)
    team = team or Team()
    is_sharded(recipe, team)  # refuses what does not go together, before anything is read
    dataset = prepare_dataset(recipe, base, info.size_step, events, processes=team.size)
    device = device_for(team.launch, recipe.training.device)
    dtype = choose_dtype(recipe.training.precision, device)
    setup = Setup(
        recipe=recipe,
        family=family,
        files=files,
        info=info,
        objective=objective_for(recipe),
        dataset=dataset,
        folder=folder_of(recipe),
        device=device,
        dtype=dtype,
        attention=attention_for(
            family,
            files,
            recipe.training.attention,
            split=recipe.memory.split_attention,
            device=device,
            dtype=dtype,
            events=events,
        ),
        team=team,
    )
    events.notice(dataset.report())
    return setup


def folder_of(recipe: Recipe) -> RunFolder:
    """The folder of a run; its recipe has absolute paths."""
    return RunFolder(Path(recipe.output.folder) / recipe.name, recipe.name)
