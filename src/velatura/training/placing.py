"""Where the denoiser's blocks live and how they are run, for one training: compiled, recomputed, streamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from velatura.data.batching.plan import tokens_of
from velatura.events import Events
from velatura.families.attending import attend_by
from velatura.interfaces import Parts
from velatura.placement.compiling import (
    compile_blocks,
    compiled_update,
    decide,
    decide_updates,
    training_flops,
)
from velatura.placement.place import NO_USE, Placed, place
from velatura.placement.recompute import recompute
from velatura.placement.streamed.activations import NO_USE as NO_USE_OF_OFFLOADING
from velatura.placement.streamed.activations import Activations
from velatura.placement.streamed.links import link_to
from velatura.plural import counted
from velatura.recipe.values import value_at
from velatura.training.optimizer import updated_by_tensor
from velatura.training.optimizers.by_tensor import Move
from velatura.training.optimizers.visits import Visits
from velatura.training.setup import Setup

_NO_USE_ON_THE_CPU = {
    "memory.streamed": NO_USE,
    "memory.offload_activations": NO_USE_OF_OFFLOADING,
    "optimizer.offload": "on the CPU the averages are in the machine's memory anyway: they are only copied",
}


def place_blocks(setup: Setup, parts: Parts, events: Events) -> Placed | None:
    """Do what the recipe says, once all adapters are on and before the optimizer looks at what is trained.

    None where nothing is streamed. Raises MemoryShortage.
    """
    training, memory = setup.recipe.training, setup.recipe.memory
    if parts.denoiser is None:
        return None
    attend_by(setup.family, parts.denoiser, setup.attention)
    blocks = setup.family.blocks(parts.denoiser)
    sizes = setup.dataset.sizes
    tokens = max(tokens_of(size, setup.info.size_step) for size in sizes)
    each = training.batch_size if training.batch_tokens is None else max(1, training.batch_tokens // tokens)
    flops = training_flops(blocks, tokens, training.steps * each * training.accumulate)
    if decide(training.compile, flops=flops, device=setup.device):
        events.notice(f"compiling {counted(len(blocks), 'block')}; the first steps take longer")
        compile_blocks(blocks, len(sizes), events.warn)
    link = link_to(setup.device)
    activations = Activations(link) if memory.offload_activations else None
    feed_forwards = setup.family.feed_forwards(parts.denoiser)
    placed = None
    if memory.streamed:
        placed = place(
            parts.denoiser,
            blocks,
            setup.family.ahead(parts.denoiser),
            share=memory.streamed,
            device=setup.device,
            link=link,
            policy=training.checkpoint_blocks,
            feed_forwards=feed_forwards,
            trained=setup.recipe.trains_denoiser,
            updated_in_backward=setup.recipe.optimizer.fused_backward,
            activations=activations,
        )
        events.notice(placed.report())
    else:
        recompute(blocks, training.checkpoint_blocks, feed_forwards, activations=activations)
    if setup.device.type == "cpu":
        for key, why in _NO_USE_ON_THE_CPU.items():
            if value_at(setup.recipe, key):
                events.warn(f"{key}: {why}")
    return placed


def visits_for(setup: Setup, placed: Placed | None) -> Visits | None:
    """What updates want that is in the machine's memory between them; None where all is on the device."""
    optimizer = setup.recipe.optimizer
    trained = placed.trained if placed else ()
    if not (trained or optimizer.offload):
        return None
    # within the backward pass the weights are on the device anyway
    away = () if optimizer.fused_backward else trained
    norms = placed.norms if placed else None
    return Visits(setup.device, link_to(setup.device), weights=away, states=optimizer.offload, norms=norms)


def compiler_of_updates(
    setup: Setup, parameters: Mapping[str, nn.Parameter], events: Events
) -> Callable[[Move], Move] | None:
    """What compiles the updates of the recipe's optimizer; None where there is none of ours, or it does not pay."""
    training, optimizer = setup.recipe.training, setup.recipe.optimizer
    values = sum(parameter.numel() for parameter in parameters.values())
    pays = decide_updates(training.compile, values=values, steps=training.steps, device=setup.device)
    if not (pays and updated_by_tensor(optimizer, parameters)):
        return None
    events.notice(f"compiling the updates of {optimizer.kind}; the first step takes longer")
    return partial(compiled_update, tell=events.warn)
