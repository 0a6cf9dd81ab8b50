"""Optimizers that take one tensor after the other: every update is computed in float32, whatever is stored.

Small tensors are taken together (see `together`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from velatura.training.distribution.sharding import local
from velatura.training.optimizers.eight_bits import BLOCK
from velatura.training.optimizers.rounding import noise_for, rounded
from velatura.training.optimizers.together import Update, make_as_one, together

State = dict[str, Any]
Given = Sequence[Any]  # numbers, and tables on the device
Move = Callable[..., None]  # `move`, or the same compiled

LEAST = 4096  # values of a tensor whose update is worth a compiled kernel


class Rule(Protocol):
    """What one kind of optimizer does with one tensor.

    `by_value`: an update looks at no value outside of its block of 256, so that shapes do not matter.
    """

    by_value: bool

    def fresh(self, parameter: Tensor) -> State:
        """What is remembered of a tensor before its first update."""

    def given(self, step: int, device: torch.device) -> Given:
        """What the update depends on besides, in an update of this number, counted from 1."""

    def direction(self, gradient: Tensor, state: Mapping[str, Tensor], given: Given) -> Tensor:
        """Where to go, in units of the learning rate, for a float32 gradient; takes it into the state, in place."""


class ByTensor(torch.optim.Optimizer):
    """weight <- (1 - rate decay) weight - rate direction, in float32; weights in bf16 are rounded stochastically.

    The draws of a rounding depend on the seed, the tensor's name and how many updates it had. `fast`: `move`, compiled
    for tensors of any size.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        rule: Rule,
        *,
        lr: float,
        weight_decay: float,
        seed: int,
        fast: Move | None = None,
    ) -> None:
        super().__init__(decayed(parameters, weight_decay), {"lr": lr})
        self._rule = rule
        self._seed = seed
        self._names = {parameter: name for name, parameter in parameters.items()}
        self._fast = fast

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply the gradients."""
        for group in self.param_groups:
            make = partial(self._make, rate=group["lr"], decay=group["weight_decay"])
            updates = (self._update(one) for one in group["params"] if one.grad is not None)
            for joined in together(updates) if self._rule.by_value else ([update] for update in updates):
                make_as_one(joined, make)

    def _update(self, parameter: nn.Parameter) -> Update:
        """What is to be done with a parameter: of what this process holds of it."""
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, **self._rule.fresh(parameter)}
        state["step"] += 1
        weight, gradient = local(parameter.detach()), local(parameter.grad)  # type: ignore[arg-type]
        held = {name: local(value) for name, value in state.items() if isinstance(value, Tensor)}
        noise = None
        if weight.dtype != torch.float32:
            noise = noise_for(parameter, self._seed, f"rounding/{state['step']}/{self._names[parameter]}")
        return Update(state["step"], weight, gradient, held, noise)

    def _make(self, update: Update, rate: float, decay: float) -> None:
        weight, gradient, held, noise = update.weight, update.gradient, update.state, update.noise
        numbers = 1 - rate * decay, rate, *self._rule.given(update.number, weight.device)
        if self._fast is None or not self._any_shape(update):
            move(self._rule, weight, gradient, held, noise, numbers)
            return

        def alike(tensor: Tensor) -> Tensor:
            """In rows where shapes do not matter; no view, since a graph asks what it is a view of."""
            whole = self._rule.by_value and tensor.numel() == update.size
            return tensor.view(-1, BLOCK).data if whole else tensor.data

        self._fast(
            self._rule,
            alike(weight),
            alike(gradient),
            {name: alike(value) for name, value in held.items()},
            None if noise is None else alike(noise),
            numbers,
        )

    def _any_shape(self, update: Update) -> bool:
        """Whether one graph serves tensors like these, of whatever size.

        Small ones too, where they may be joined: alone they get the same bits.
        """
        if self._rule.by_value:
            return update.size % BLOCK == 0 and update.contiguous
        return update.weight.ndim == 2 and update.size >= LEAST and update.contiguous


def move(
    rule: Rule,
    weight: Tensor,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    noise: Tensor | None,
    numbers: Given,
) -> None:
    """Update the weight and what is remembered of it, in place."""
    kept, rate, *given = numbers
    wide = weight.float()  # itself where it is float32 already
    direction = rule.direction(gradient.float(), state, given)
    wide.mul_(kept).sub_(direction * rate)
    if noise is not None:
        weight.copy_(rounded(wide, noise))


def decayed(parameters: Mapping[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Groups of matrices and kernels, and of vectors, which get no weight decay.

    Weights that are shared out between processes are apart from those that are not: torch updates them apart.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in parameters.values():
        groups.setdefault((parameter.ndim < 2, isinstance(parameter, DTensor)), []).append(parameter)
    return [
        {"params": group, "weight_decay": 0.0 if is_vector else weight_decay}
        for (is_vector, _), group in sorted(groups.items(), key=lambda item: item[0])
    ]
