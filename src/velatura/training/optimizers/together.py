"""Updates of many small tensors as one: a LoRA has a thousand, and each update alone would start dozens of kernels.

Only for rules that look at no value outside of its block of 256: tensors one after the other are then as good as alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from velatura.placement.on_cuda import is_on_cuda
from velatura.training.optimizers.eight_bits import BLOCK

LARGE = 2**15  # values of a tensor that is updated alone
TOGETHER = 2**17  # values at most: what stays in a CPU's caches
LARGE_ON_CUDA = TOGETHER_ON_CUDA = 2**20  # which keep a GPU busy


class Update(NamedTuple):
    """What an update reads and, all but the gradient and the noise, writes: of one tensor, or of several as one.

    `number`: how many updates there were, with this one.
    """

    number: int
    weight: Tensor
    gradient: Tensor
    state: dict[str, Tensor]
    noise: Tensor | None

    @property
    def size(self) -> int:
        """Values of the weight."""
        return self.weight.numel()

    @property
    def contiguous(self) -> bool:
        """Whether all values lie in their order."""
        tensors = (self.weight, self.gradient, *self.state.values())  # noise does, as it was drawn
        return all(tensor.is_contiguous() for tensor in tensors)


def together(updates: Iterable[Update]) -> Iterator[list[Update]]:
    """The updates in lists, each to be made as one. A tensor of no whole blocks is alone, and so is a large one."""
    waiting: dict[object, list[Update]] = {}
    for update in updates:
        weight = update.weight
        large, most = (LARGE_ON_CUDA, TOGETHER_ON_CUDA) if is_on_cuda(weight.device) else (LARGE, TOGETHER)
        if update.size % BLOCK or update.size > large or not update.contiguous:
            yield [update]
            continue
        kind = update.number, weight.dtype, weight.device, update.gradient.dtype, *update.state
        if sum(one.size for one in waiting.get(kind, ())) + update.size > most:
            yield waiting.pop(kind)
        waiting.setdefault(kind, []).append(update)
    yield from waiting.values()


def make_as_one(updates: Sequence[Update], make: Callable[[Update], None]) -> None:
    """Make the update of all these tensors, one after the other in one, and give each what became of it."""
    if len(updates) == 1:
        make(updates[0])
        return
    noise = [update.noise for update in updates if update.noise is not None]
    one = Update(
        number=updates[0].number,
        weight=_joined([update.weight for update in updates]),
        gradient=_joined([update.gradient for update in updates]),
        state={name: _joined([update.state[name] for update in updates]) for name in updates[0].state},
        noise=_joined(noise) if noise else None,
    )
    make(one)
    _share_out(one.weight, [update.weight for update in updates])
    for name, whole in one.state.items():
        _share_out(whole, [update.state[name] for update in updates])


def _share_out(whole: Tensor, tensors: Sequence[Tensor]) -> None:
    torch._foreach_copy_([tensor.view(-1) for tensor in tensors], whole.split([t.numel() for t in tensors]))


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.view(-1) for tensor in tensors])
