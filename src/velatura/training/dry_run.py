"""What a run would do, told before a weight is read."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from velatura.adapters.targets import choose
from velatura.data.cache_place import readable
from velatura.data.views import views_of
from velatura.events import Events
from velatura.interfaces import Target
from velatura.training.caching import latents_cache, text_cache, texts_to_encode
from velatura.training.previews import plan_previews
from velatura.training.setup import Setup


def plan_lines(setup: Setup) -> list[str]:
    """Lines for the user. Raises RecipeError where targets or previews cannot be met."""
    recipe = setup.recipe
    report = setup.dataset.plan.report()
    training = recipe.training
    each = f"{training.batch_size} x {training.accumulate} images"
    if training.batch_tokens is not None:
        each = f"{training.batch_tokens} image tokens x {training.accumulate}"
    epochs = training.steps / report.steps
    lines = [
        f"model: {setup.info.family} {setup.info.variant}, {_dtype(setup)} on {setup.device}",
        f"steps: {training.steps} of {each}, {epochs:.2f} epochs, about {epochs * report.images:.0f} images seen",
        _trained(setup),
    ]
    if setup.caches_latents:
        lines.append(_images_to_encode(setup))
    if setup.caches_text:
        lines.append(_captions_to_encode(setup))
    lines += setup.encoded_at_every_step()
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


def _images_to_encode(setup: Setup) -> str:
    cache = latents_cache(setup, Events(), memory_limit=0)
    views = views_of((*setup.dataset.entries, *setup.dataset.held_out))
    missing = cache.missing(views)
    return f"latents: {len(missing)} of {len(views)} images to be encoded, {readable(cache.size(missing))} on disk"


def _captions_to_encode(setup: Setup) -> str:
    texts = texts_to_encode(setup)
    missing = text_cache(setup, Events(), memory_limit=0).missing(texts)
    return f"text: {len(missing)} of {len(texts)} texts to be encoded"


def _dtype(setup: Setup) -> str:
    return str(setup.dtype).removeprefix("torch.")
