"""Whether the model can do what `[previews]` and guidance ask for, as far as its configs tell without being loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from velatura.errors import RecipeError
from velatura.recipe.defaults import POCKET
from velatura.recipe.families.files import ModelSection
from velatura.recipe.paths import is_pocket, resolve
from velatura.recipe.problems import Problem
from velatura.recipe.recipe import Recipe
from velatura.recipe.sampling.request import line_values, out_of_range

SIZES = ("width", "height")


def unpaintable(recipe: Recipe, base: Path) -> list[Problem]:
    """Sizes that the model cannot have, and distilled guidance for a model that is known to have none.

    Paths start at `base`. What cannot be told here, the start of the run tells.
    """
    step = size_step(recipe.model, base)
    section = recipe.previews
    problems = [
        Problem(path=("previews", "size"), what=wrong.replace("width", "size", 1))
        for _, wrong in out_of_range({"width": section.size}, step)
    ]
    asked: list[tuple[tuple[str | int, ...], Any]] = [(("previews", "guidance"), section.guidance)]
    for index, line in enumerate(section.prompts):
        try:
            values = line_values(line)
        except RecipeError:
            continue  # told by `consistency`
        path = ("previews", "prompts", index)
        sizes = {name: values.get(name) for name in SIZES}
        problems += [Problem(path=path, what=wrong) for _, wrong in out_of_range(sizes, step)]
        asked.append((path, values.get("guidance")))
    return [*problems, *_without_effect(asked, recipe.model, base)]


def size_step(model: ModelSection, base: Path) -> int:
    """Image edges must be multiples of this: from the autoencoder's config where it lies here, else the family's."""
    config = _config(model, base, model.autoencoder, "vae")
    channels = config.get("block_out_channels")
    scale = 2 ** (len(channels) - 1) if isinstance(channels, list) and channels else model.latent_scale
    return int(scale * model.patch)


def reads_guidance(model: ModelSection, base: Path) -> bool | None:
    """Whether the denoiser has an input for distilled guidance; None where that cannot be told without loading it."""
    if model.guidance_key is None:
        return False
    config = _config(model, base, model.denoiser, model.denoiser_folder)
    return bool(config.get(model.guidance_key, False)) if config else None


def _without_effect(
    asked: list[tuple[tuple[str | int, ...], Any]], model: ModelSection, base: Path
) -> Iterator[Problem]:
    if reads_guidance(model, base) is not False:
        return
    trained = getattr(model, "guidance", None)
    if trained is not None and trained != type(model).model_fields["guidance"].default:
        what = (
            f"received guidance {trained:g}, which would have no effect: this model has no distilled guidance"
        )
        yield Problem(path=("model", "guidance"), what=what, hint="leave it out")
    default = _default_guidance(model, base)
    for path, guidance in asked:
        if guidance is not None and guidance != default:
            what = f"received guidance {guidance:g}, which would have no effect: this model has no distilled guidance"
            yield Problem(
                path=path, what=what, hint="leave it out; classifier-free guidance is cfg, --l in a line"
            )


def _default_guidance(model: ModelSection, base: Path) -> float:
    """What the model is sampled with where nothing is said; to write it down is no mistake."""
    root = None if model.model is None else _folder(model.model, base)
    own = _json(root / "velatura.json") if root else {}
    said = own["sampling"].get("guidance") if isinstance(own.get("sampling"), dict) else None
    if isinstance(said, int | float):
        return float(said)
    scheduler = _json(root / "scheduler" / "scheduler_config.json") if root else {}
    return model.default_guidance(scheduler)


def _config(model: ModelSection, base: Path, own: str | None, subfolder: str) -> dict[str, Any]:
    """`config.json` of a part in a folder on this machine; empty where there is none."""
    source = own or model.model
    if source is None:
        return {}
    root = _folder(source, base)
    inside = root / subfolder
    return _json((root if own and not inside.is_dir() else inside) / "config.json")


def _folder(source: str, base: Path) -> Path:
    return POCKET / source.removeprefix("pocket/") if is_pocket(source) else resolve(source, base)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
