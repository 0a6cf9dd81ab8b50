"""AdamW's direction, with averages in float32 or in 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from velatura.training.distribution.sharding import local
from velatura.training.optimizers.by_tensor import State
from velatura.training.optimizers.eight_bits import SIGNED, UNSIGNED, pack, unpack

SMALL = 4096  # values; the averages of smaller tensors stay in float32, which takes next to nothing


class Adam:
    """m / (sqrt(v) + eps), bias-corrected (arXiv:1711.05101); m and v in float32."""

    def __init__(self, betas: tuple[float, float], eps: float) -> None:
        self.betas = betas
        self.eps = eps

    def fresh(self, parameter: Tensor) -> State:
        """Two averages of a tensor's shape."""
        return {name: torch.zeros_like(parameter, dtype=torch.float32) for name in ("exp_avg", "exp_avg_sq")}

    def direction(self, gradient: Tensor, state: State) -> Tensor:
        """Take the gradient into the averages."""
        first, second = local(state["exp_avg"]), local(state["exp_avg_sq"])
        return self._direction(gradient, first, second, state["step"])

    def _direction(self, gradient: Tensor, first: Tensor, second: Tensor, step: int) -> Tensor:
        beta1, beta2 = self.betas
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        corrected = (1 - beta2**step) ** 0.5
        size = (second.sqrt() / corrected).add_(self.eps)
        direction: Tensor = (first / size).div_(1 - beta1**step)
        return direction


class Adam8bit(Adam):
    """The same with m and sqrt(v) in 8 bits between the steps.

    Of v the root is kept: it spans as many powers of ten as m does. In 8 bits v itself would become 0 where m is not,
    and such a weight would be moved by m / eps.
    """

    def fresh(self, parameter: Tensor) -> State:
        """Codes and scales of blocks; small tensors as in float32."""
        if parameter.numel() < SMALL:
            return super().fresh(parameter)
        state: State = {}
        zeros = torch.zeros_like(parameter, dtype=torch.float32)
        state["exp_avg"], state["exp_avg_scale"] = pack(zeros, SIGNED)
        state["root"], state["root_scale"] = pack(zeros, UNSIGNED)
        return state

    def direction(self, gradient: Tensor, state: State) -> Tensor:
        """Unpack the averages, take the gradient into them, pack them again."""
        if "root" not in state:
            return super().direction(gradient, state)
        first = unpack(state["exp_avg"], state["exp_avg_scale"], SIGNED)
        second = unpack(state["root"], state["root_scale"], UNSIGNED).square_()
        direction = self._direction(gradient, first, second, state["step"])
        state["exp_avg"], state["exp_avg_scale"] = pack(first, SIGNED)
        state["root"], state["root_scale"] = pack(second.sqrt_(), UNSIGNED)
        return direction
