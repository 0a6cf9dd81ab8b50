"""Where a run's memory is, for the message that there is too little of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from velatura.errors import MemoryShortage
from velatura.interfaces import PARTS, Batch, Parts
from velatura.placement.shortage import first_line, memory_in_use
from velatura.plural import counted
from velatura.recipe.capabilities import OFFLOADED
from velatura.recipe.recipe import Recipe
from velatura.training.health.splitting import size_of

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class MemoryAccount:
    """Bytes on the run's device by what they are for; `rest`: activations, and what the libraries themselves need."""

    frozen: int
    trained: int
    gradients: int
    optimizer: int
    average: int
    rest: int

    def __str__(self) -> str:
        amounts = {
            "frozen weights": self.frozen,
            "trained weights": self.trained,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "average (ema)": self.average,
            "activations and the rest": self.rest,
        }
        return ", ".join(f"{what} {_amount(size)}" for what, size in amounts.items() if size)


def account(
    parts: Parts, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor], device: torch.device
) -> MemoryAccount:
    """Of what is held now; a tensor that two share counts once, and what is on another device does not count."""
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    seen: set[int] = set()
    sizes = [
        sum(_new_bytes(tensors, device, seen))
        for tensors in (trained, gradients, moments, average.values(), _weights(parts))
    ]
    rest = max(0, memory_in_use(device) - sum(sizes))
    return MemoryAccount(
        trained=sizes[0], gradients=sizes[1], optimizer=sizes[2], average=sizes[3], frozen=sizes[4], rest=rest
    )


def shortage(
    error: BaseException,
    held: MemoryAccount,
    recipe: Recipe,
    batch: Batch | None,
    *,
    scale: int,
    step: int,
    sharded: bool,
) -> MemoryShortage:
    """The error for the user, of step `step` (from 1) while `batch` was in hand; `scale`: pixels per latent pixel.

    `sharded`: the denoiser is shared out between processes.
    """
    device = isinstance(error, torch.OutOfMemoryError)
    hand = "" if batch is None else f", with {counted(len(batch.names), 'image')} of {size_of(batch, scale)}"
    return MemoryShortage(
        f"the memory of {'the device' if device else 'this machine'} is not enough for step {step}{hand} "
        f"({first_line(error)}). It holds: {held}. What needs less, the most helpful first: "
        f"{'; '.join(remedies(recipe, 1 if batch is None else len(batch.names), sharded=sharded))}."
    )


def remedies(recipe: Recipe, items: int, *, sharded: bool) -> Iterator[str]:
    """What would help a run that has `items` images in a batch, as far as it is not done already."""
    training, micro_batch = recipe.training, recipe.memory.micro_batch
    items = min(items, micro_batch or items)
    if not training.checkpoint_blocks:
        yield "training.checkpoint_blocks = true"
    if items > 1 and (sharded or recipe.optimizer.fused_backward):
        yield "a smaller training.batch_size" + (", with accumulate in its place" if sharded else "")
    elif items > 1:
        yield f"memory.micro_batch = {-(-items // 2)}, for smaller forward passes with the same result"
        if not training.retry_on_oom:
            yield "training.retry_on_oom = true, which finds out how small"
    if recipe.adapter is not None and recipe.memory.weights == "full":
        yield 'memory.weights = "fp8"'
    with_denoiser = recipe.objective.kind != "autoencoder"
    if recipe.previews.streamed is not None and recipe.previews.streamed < recipe.memory.streamed:
        yield "a larger previews.streamed"
    if with_denoiser and recipe.memory.streamed < 1 and (recipe.adapter or not recipe.optimizer.by_path):
        yield "a larger memory.streamed"
    if training.checkpoint_blocks not in (False, "mlp") and not recipe.memory.offload_activations:
        yield "memory.offload_activations = true"
    if recipe.ema is not None and recipe.ema.device == "auto":
        yield 'ema.device = "cpu"'
    if recipe.full is not None and recipe.optimizer.kind == "adamw":
        yield 'optimizer.kind = "adamw8bit" or "adafactor"'
    if recipe.full is not None and recipe.optimizer.kind in OFFLOADED and not recipe.optimizer.offload:
        yield "optimizer.offload = true"
    if recipe.full is not None and recipe.full.weights == "fp32" and with_denoiser:
        yield 'full.weights = "bf16"'
    several = training.accumulate > 1 or micro_batch is not None
    if recipe.full is not None and not several and not recipe.optimizer.fused_backward:
        yield "optimizer.fused_backward = true with clip = 0"
    yield "a smaller resolution"
    if recipe.adapter is not None:
        yield "a smaller adapter.rank or fewer adapter.targets"
    else:
        yield "an [adapter] in place of [full]"


def _weights(parts: Parts) -> Iterator[Tensor]:
    for name in PARTS:
        for module in parts.modules(name):
            yield from module.parameters()
            yield from module.buffers()


def _new_bytes(tensors: Iterable[Tensor], device: torch.device, seen: set[int]) -> Iterator[int]:
    for tensor in tensors:
        if tensor.device.type != device.type or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        here = tensor.to_local() if isinstance(tensor, DTensor) else tensor  # of one that processes share
        yield here.numel() * here.element_size()


def _amount(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= 0.01 * GIB else f"{size / 2**20:.2f} MiB"
