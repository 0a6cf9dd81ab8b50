"""Where the denoiser's blocks live and how they are run, for one training: compiled, recomputed, streamed."""

from __future__ import annotations

from velatura.data.plan import tokens_of
from velatura.events import Events
from velatura.interfaces import Parts
from velatura.placement.compiling import compile_blocks, decide, training_flops
from velatura.placement.place import NO_USE, Placed, place
from velatura.placement.recompute import recompute
from velatura.plural import counted
from velatura.training.setup import Setup


def place_blocks(setup: Setup, parts: Parts, events: Events) -> Placed | None:
    """Do what the recipe says, once all adapters are on and before the optimizer looks at what is trained.

    None where nothing is streamed. Raises MemoryShortage.
    """
    training, memory = setup.recipe.training, setup.recipe.memory
    if parts.denoiser is None:
        return None
    blocks = setup.family.blocks(parts.denoiser)
    sizes = setup.dataset.sizes
    tokens = max(tokens_of(size, setup.info.size_step) for size in sizes)
    each = training.batch_size if training.batch_tokens is None else max(1, training.batch_tokens // tokens)
    flops = training_flops(blocks, tokens, training.steps * each * training.accumulate)
    if decide(training.compile, flops=flops, device=setup.device):
        events.notice(f"compiling {counted(len(blocks), 'block')}; the first step of each size takes longer")
        compile_blocks(blocks, len(sizes))
    recompute(blocks, training.checkpoint_blocks, setup.family.feed_forwards(parts.denoiser))
    if not memory.streamed:
        return None
    placed = place(
        parts.denoiser,
        blocks,
        setup.family.ahead(parts.denoiser),
        share=memory.streamed,
        device=setup.device,
    )
    events.notice(placed.report())
    if setup.device.type == "cpu":
        events.warn(f"memory.streamed: {NO_USE}")
    return placed
