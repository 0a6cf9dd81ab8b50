"""Full training of a denoiser whose weights are shared out between processes (FSDP2): each holds a part of every block.

What else is trained (adapters, text encoders) every process holds whole, and its gradients are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from velatura.errors import RecipeError
from velatura.interfaces import Family
from velatura.recipe.recipe import Recipe
from velatura.training.distribution.team import Team


def is_sharded(recipe: Recipe, team: Team) -> bool:
    """Whether the denoiser's weights are shared out. Optimizers that need whole tensors want every process to hold all.

    Raises RecipeError for what does not go together with it.
    """
    if team.alone or recipe.full is None or "denoiser" not in recipe.full.parts:
        return False
    if recipe.optimizer.kind != "adamw":
        return False
    if recipe.training.retry_on_oom:
        raise RecipeError(
            "training.retry_on_oom = true: the denoiser's weights are shared out between processes, which must make "
            "the same number of passes, so that one alone cannot repeat a step in smaller ones. Leave it out, and "
            "choose a smaller batch_size with accumulate."
        )
    if recipe.memory.micro_batch is not None:
        raise RecipeError(
            f"memory.micro_batch = {recipe.memory.micro_batch}: the denoiser's weights are shared out between "
            "processes, which must make the same number of passes, and their batches differ in size. Leave it out, and "
            "choose a smaller batch_size with accumulate."
        )
    return True


def kept_on_device(recipe: Recipe, team: Team) -> tuple[str, ...]:
    """Keys of what may not lie elsewhere where several processes train weights: they share it out, or add it up."""
    return () if team.alone or recipe.full is None else ("memory.streamed", "optimizer.offload")


class _Root(nn.Module):
    """The denoiser as FSDP sees it: whatever a family computes with it is its forward pass."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, compute: Callable[[], Any]) -> Any:
        return compute()


def shard(family: Family, denoiser: nn.Module, device: torch.device, team: Team) -> None:
    """Share out the weights, block by block, and what is run outside the blocks with the rest.

    Gradients are summed over processes, not averaged: losses are divided by the weight of all.
    """
    mesh = init_device_mesh(device.type, (team.size,))
    root = _Root(denoiser)
    # the root too is shared out again after each pass: values are exchanged between passes (averages)
    for module in (*family.ahead(denoiser), *family.blocks(denoiser), root):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    family.predict = _through(root, family.predict)  # type: ignore[method-assign]
    family.along = _through(root, family.along)  # type: ignore[method-assign]


def _through(root: _Root, compute: Callable[..., Any]) -> Callable[..., Any]:
    """The function as the root's forward pass."""
    return lambda *inputs, **options: root(lambda: compute(*inputs, **options))


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor; it shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def spread(whole: Tensor, like: Tensor) -> Tensor:
    """A tensor that every process holds, shared out as `like` is; itself where `like` is not, or it is already."""
    if not isinstance(like, DTensor) or isinstance(whole, DTensor):
        return whole
    whole = whole.to(like.to_local().device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def whole_weights(module: nn.Module, team: Team) -> dict[str, Tensor]:
    """All weights and buffers of a module, whole, on the CPU of the leader; all processes must ask for them."""
    found = {}
    for name, tensor in module.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if team.leads:
            found[name] = whole.cpu()
    return found


def clip_sharded(parameters: Sequence[nn.Parameter], limit: float, team: Team) -> float:
    """Clip by the norm of all gradients of all processes; the norm before. As `nn.utils.clip_grad_norm_`."""
    gradients = [(local(p.grad), isinstance(p, DTensor)) for p in parameters if p.grad is not None]
    (shared,) = team.sums([_square(gradient for gradient, sharded in gradients if sharded)])
    norm = float((shared + _square(gradient for gradient, sharded in gradients if not sharded)) ** 0.5)
    factor = limit / (norm + 1e-6)
    if factor < 1:
        torch._foreach_mul_([gradient for gradient, _ in gradients], factor)
    return norm


def _square(tensors: Iterable[Tensor]) -> float:
    """The squared norm of all together."""
    filled = [tensor for tensor in tensors if tensor.numel()]
    return float(torch.stack(torch._foreach_norm(filled)).double().square().sum()) if filled else 0.0
