"""What a run would do, told before a weight is read."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from velatura.adapters.targets import choose
from velatura.data.cache import CachedLatents
from velatura.data.cache_place import readable
from velatura.data.views import views_of
from velatura.events import Events
from velatura.interfaces import Target
from velatura.training.dataset import cache_folder
from velatura.training.previews import plan_previews
from velatura.training.setup import Setup


def plan_lines(setup: Setup) -> list[str]:
    """Lines for the user. Raises RecipeError where targets or previews cannot be met."""
    recipe = setup.recipe
    report = setup.dataset.plan.report()
    images = recipe.training.steps * recipe.training.batch_size * recipe.training.accumulate
    lines = [
        f"model: {setup.info.family} {setup.info.variant}, {_dtype(setup)} on {setup.device}",
        (
            f"steps: {recipe.training.steps} of {recipe.training.batch_size} x {recipe.training.accumulate} images, "
            f"{recipe.training.steps / report.steps:.2f} epochs, at most {images} images seen"
        ),
        _trained(setup),
    ]
    if setup.caches_latents:
        lines.append(_to_encode(setup))
    previews = plan_previews(recipe.previews, setup.info, size=setup.preview_size)
    lines.append(
        f"previews: {len(previews)} prompts, " + ", ".join(f"{p.width}x{p.height}" for p in previews)
    )
    lines.append(f"results: {setup.folder.root}")
    return lines


def _trained(setup: Setup) -> str:
    if setup.recipe.full is not None:
        return f"trained: all weights of {', '.join(setup.recipe.full.parts)}"
    section = setup.recipe.adapter
    assert section is not None
    denoiser = setup.family.sketch(setup.files)
    weights = sum(parameter.numel() for parameter in denoiser.parameters())
    choice = choose(setup.family.targets(denoiser), section.targets)
    values = _values(denoiser, choice.targets, section.rank, section.share_down)
    size = weights * setup.dtype.itemsize
    if setup.recipe.memory.weights == "fp8":
        size -= _in_blocks(setup, denoiser) * (setup.dtype.itemsize - 1)
    return f"trained: {choice.report()}, {values:,} values; frozen: {weights:,} weights, {readable(size)}"


def _in_blocks(setup: Setup, denoiser: nn.Module) -> int:
    """Weights of the linear layers that fp8 holds in a byte each."""
    modules = (module for block in setup.family.blocks(denoiser) for module in block.modules())
    return sum(module.weight.numel() for module in modules if isinstance(module, nn.Linear))


def _values(denoiser: nn.Module, targets: Sequence[Target], rank: int, share: bool) -> int:
    """Trained values of a LoRA on these targets."""
    total, seen = 0, set()
    for target in targets:
        out_features, in_features = denoiser.get_submodule(target.module).weight.shape  # type: ignore[misc]
        own = min(rank, in_features, out_features)
        total += own * out_features
        key = target.shares if share and target.shares else target.module
        if key not in seen:
            seen.add(key)
            total += own * in_features
    return total


def _to_encode(setup: Setup) -> str:
    folder = cache_folder(setup.recipe)
    cache = CachedLatents(folder, setup.info, Events(), computed=setup.dtype)
    views = views_of((*setup.dataset.entries, *setup.dataset.held_out))
    missing = cache.missing(views)
    return f"latents: {len(missing)} of {len(views)} images to be encoded, {readable(cache.size(missing))} on disk"


def _dtype(setup: Setup) -> str:
    return str(setup.dtype).removeprefix("torch.")
