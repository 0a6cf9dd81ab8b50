"""Numbers that are not finite: seen cheaply after each update, and told apart when a loss is one of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from velatura.interfaces import PARTS, Parts
from velatura.plural import counted
from velatura.training.distribution.sharding import local


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no value is nan or infinite, in one fused pass and with one answer from each device.

    Values whose square float32 cannot hold (above 1e19) count as infinite.
    """
    held: dict[torch.device, list[Tensor]] = {}
    for tensor in map(local, tensors):
        if tensor.numel():
            held.setdefault(tensor.device, []).append(tensor)
    return all(bool(torch.stack(torch._foreach_norm(filled)).isfinite().all()) for filled in held.values())


def broken_weights(trained: Sequence[Tensor], parts: Parts) -> str:
    """Which weights are not finite, trained or frozen, and what that means; empty where all are.

    It reads every weight one by one: for the time when something went wrong.
    """
    if not all_finite(trained):
        return "the trained weights were not finite before this step"
    for part in PARTS:
        if names := [name for name, tensor in _weights(parts, part) if not _finite(tensor)]:
            count = counted(len(names), "tensor is", "tensors are")
            return (
                f"weights of the {part.replace('_', ' ')} are not finite ({count}, the first is {names[0]}): "
                "the file is damaged, or its values do not fit the precision"
            )
    return ""


def _weights(parts: Parts, part: str) -> Iterator[tuple[str, Tensor]]:
    for module in parts.modules(part):  # type: ignore[arg-type]
        yield from module.named_parameters()
        yield from ((name, buffer) for name, buffer in module.named_buffers() if buffer.is_floating_point())


def _finite(tensor: Tensor) -> bool:
    tensor = local(tensor)
    eight_bits = tensor.itemsize == 1  # for which torch has no isfinite
    return bool((tensor.float() if eight_bits else tensor).isfinite().all())
