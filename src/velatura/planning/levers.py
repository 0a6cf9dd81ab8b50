"""The settings that a plan may choose among: each takes less memory at some cost in time or exactness.

A lever is a function of recipe and device that gives its options: what the recipe says, then what is more frugal. A new
one is written below and added to `LEVERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from velatura.planning.devices import Device
from velatura.recipe.recipe import Recipe

# of computation, as plans of FLUX.1-dev say; under an adapter the backward pass is short, so that more is added to less
RECOMPUTED = ((False, 1.0), ("mlp", 1.14), (2, 1.21), (True, 1.41))
RECOMPUTED_IN_FULL = ((False, 1.0), ("mlp", 1.04), (2, 1.12), (True, 1.25))
# at most, for waiting for a large block behind a small one; what the link cannot do is `Pace`'s
STREAMED = 0.15
SHARES = (0.25, 0.5, 0.75, 1.0)
ENCODERS = (("auto", 1.0), ("cpu", 1.01))
OFFLOADED = 1.03  # copies beside the computation
AVERAGES_AWAY = 1.12  # all averages cross the link, there and back, in every update
PIECES = (("auto", 1.0), ("whole", 1.0), ("sliced", 1.01), ("tiled", 1.05))  # of previews and caching alone
WIDENED = 1.15  # weights in few bits are widened for each product
# exactness, in time that it is worth
WEIGHTS = (("full", 1.0), ("fp8", 1.3), ("nf4", 2.5))
NARROWED = 1.5  # float32 given up
OPTIMIZERS = (("adamw", 1.0), ("adamw8bit", 1.15), ("adafactor", 2.0))  # the last is another way to learn
UNCLIPPED = 1.5  # gradients are used at once, and not clipped
NARROW_WEIGHTS = 1.6  # trained weights lose their float32


@dataclass(frozen=True, kw_only=True)
class Option:
    """Values of recipe keys.

    `slower`: a factor of the computation's time; `loss`: what is given up, as such a factor; 1 is nothing.
    """

    sets: Mapping[str, Any]
    slower: float = 1.0
    loss: float = 1.0


Lever = Callable[[Recipe, Device], Sequence[Option]]
AS_IT_IS = (Option(sets={}),)


def micro_batch(recipe: Recipe, device: Device) -> Sequence[Option]:
    """Batches in more passes of fewer images: what that costs is `Pace`'s.

    Of batches that are laid out by tokens, the size is not known here.
    """
    if recipe.training.batch_tokens is not None or recipe.optimizer.fused_backward:
        return AS_IT_IS
    own = recipe.memory.micro_batch
    largest = max(recipe.training.batch_size, *(one.batch_size or 1 for one in recipe.data))
    sizes = [min(own or largest, largest)]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return [Option(sets={"memory.micro_batch": size}) for size in (own, *sizes[1:])]


def recompute(recipe: Recipe, device: Device) -> Sequence[Option]:
    """Activations of all blocks, all but those of MLPs, those of every second block, or those of one block alone."""
    own = recipe.training.checkpoint_blocks
    if recipe.objective.kind == "autoencoder":
        return AS_IT_IS
    ladder = RECOMPUTED if recipe.full is None else RECOMPUTED_IN_FULL
    if not isinstance(own, (bool, str)) and own > 2:  # every third or fewer
        return [Option(sets={}), *_ladder("training.checkpoint_blocks", 2, ladder)]
    return _ladder("training.checkpoint_blocks", own, ladder)


def frozen_weights(recipe: Recipe, device: Device) -> Sequence[Option]:
    """Frozen weights in the precision of the computation, in 8 bits, or in 4.

    fp8 is nearer to the full weights than int8 and takes as much, so int8 comes after it: its products in 8 bits are
    worth their error to who says so in the recipe.
    """
    if recipe.adapter is None or device.kind == "mps" or recipe.memory.weights != "full":
        return AS_IT_IS
    return [
        Option(sets={"memory.weights": kind}, slower=1.0 if kind == "full" else WIDENED, loss=loss)
        for kind, loss in WEIGHTS
    ]


def text_encoders(recipe: Recipe, device: Device) -> Sequence[Option]:
    """Captions encoded on the device, or in the machine's memory, once where they are cached."""
    if device.kind == "cpu" or (recipe.full and "text_encoders" in recipe.full.parts):
        return AS_IT_IS
    cached = recipe.memory.cache
    return _ladder("memory.text_encoders", recipe.memory.text_encoders, ENCODERS if cached else ENCODERS[:1])


def activations(recipe: Recipe, device: Device) -> Sequence[Option]:
    """Inputs of recomputed blocks on the device, or in the machine's memory until the backward pass."""
    if device.kind != "cuda" or recipe.objective.kind == "autoencoder":
        return AS_IT_IS
    own = recipe.memory.offload_activations
    return _ladder("memory.offload_activations", own, ((False, 1.0), (True, OFFLOADED)))


def averages(recipe: Recipe, device: Device) -> Sequence[Option]:
    """The optimizer's averages on the device, or in the machine's memory between updates."""
    if device.kind != "cuda" or recipe.full is None:
        return AS_IT_IS
    own = recipe.optimizer.offload
    return _ladder("optimizer.offload", own, ((False, 1.0), (True, AVERAGES_AWAY)))


def streaming(recipe: Recipe, device: Device) -> Sequence[Option]:
    """The denoiser's weights on the device, or a share of them in the machine's memory."""
    if device.kind != "cuda" or recipe.objective.kind == "autoencoder":
        return AS_IT_IS
    own = recipe.memory.streamed
    return [
        Option(sets={"memory.streamed": share}, slower=1 + STREAMED * share)
        for share in (own, *(share for share in SHARES if share > own))
    ]


def pieces(recipe: Recipe, device: Device) -> Sequence[Option]:
    """Images whole through the autoencoder, in strips or in tiles."""
    if recipe.objective.kind == "autoencoder":
        return AS_IT_IS
    own = recipe.memory.autoencoder
    ladder = [step for step in PIECES if step[0] in (own, "sliced", "tiled")]
    return _ladder("memory.autoencoder", own, ladder)


def precision(recipe: Recipe, device: Device) -> Sequence[Option]:
    """bf16 in place of float32, where the device computes in it."""
    if device.dtype(recipe.training.precision) != torch.float32 or not device.bf16:
        return AS_IT_IS
    return [*AS_IT_IS, Option(sets={"training.precision": "bf16"}, loss=NARROWED)]


def optimizer(recipe: Recipe, device: Device) -> Sequence[Option]:
    """What the optimizer holds for each weight: 8 bytes, 2, almost none. Of an adapter it is little."""
    own = recipe.optimizer.kind
    if recipe.full is None or own not in dict(OPTIMIZERS):
        return AS_IT_IS
    ladder = OPTIMIZERS[[kind for kind, _ in OPTIMIZERS].index(own) :]
    return [Option(sets={"optimizer.kind": kind}, loss=loss) for kind, loss in ladder]


def gradients(recipe: Recipe, device: Device) -> Sequence[Option]:
    """Gradients that are freed as soon as they are used; their norm is not known then."""
    if recipe.full is None or recipe.optimizer.fused_backward:
        return AS_IT_IS
    sets = {"optimizer.fused_backward": True, "optimizer.clip": 0.0}
    return [*AS_IT_IS, Option(sets=sets, loss=UNCLIPPED)]


def trained_weights(recipe: Recipe, device: Device) -> Sequence[Option]:
    """Trained weights in float32 or in bf16."""
    if recipe.full is None or recipe.full.weights == "bf16" or not device.bf16:
        return AS_IT_IS
    sets = {"full.weights": "bf16", "training.precision": "bf16"}
    return [*AS_IT_IS, Option(sets=sets, loss=NARROW_WEIGHTS)]


LEVERS: tuple[Lever, ...] = (
    micro_batch, recompute, activations, streaming, averages, frozen_weights, text_encoders, pieces, precision,
    optimizer, gradients, trained_weights,
)  # fmt: skip


def _ladder(key: str, own: Any, ladder: Sequence[tuple[Any, float]]) -> list[Option]:
    """The options from the recipe's own value on."""
    return [Option(sets={key: value}, slower=slower) for value, slower in ladder[rung(ladder, own) :]]


def rung(ladder: Sequence[tuple[Any, float]], own: Any) -> int:
    """Where a value stands in a ladder, told by its type too: True equals 1. Raises ValueError."""
    return [(type(value), value) for value, _ in ladder].index((type(own), own))
