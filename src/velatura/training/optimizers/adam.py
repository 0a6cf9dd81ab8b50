"""AdamW's direction, with averages in float32 or in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from velatura.training.optimizers.by_tensor import Given, State
from velatura.training.optimizers.eight_bits import SIGNED, UNSIGNED, codebook, pack, unpack

SMALL = 4096  # values; the averages of smaller tensors stay in float32, which takes next to nothing


class Adam:
    """m / (sqrt(v) + eps), bias-corrected (arXiv:1711.05101); m and v in float32."""

    by_value = True

    def __init__(self, betas: tuple[float, float], eps: float) -> None:
        self.betas = betas
        self.eps = eps

    def fresh(self, parameter: Tensor) -> State:
        """Two averages of a tensor's shape."""
        return {name: torch.zeros_like(parameter, dtype=torch.float32) for name in ("exp_avg", "exp_avg_sq")}

    def given(self, step: int, device: torch.device) -> Given:
        """The corrections of m and of sqrt(v) for their start from zero."""
        beta1, beta2 = self.betas
        return 1 - beta1**step, (1 - beta2**step) ** 0.5

    def direction(self, gradient: Tensor, state: Mapping[str, Tensor], given: Given) -> Tensor:
        """Take the gradient into the averages."""
        return self._direction(gradient, state["exp_avg"], state["exp_avg_sq"], *given)

    def _direction(
        self, gradient: Tensor, first: Tensor, second: Tensor, of_first: Any, of_root: Any
    ) -> Tensor:
        beta1, beta2 = self.betas
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        size = (second.sqrt() / of_root).add_(self.eps)
        direction: Tensor = (first / size).div_(of_first)
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
        state["exp_avg"], state["exp_avg_scale"] = pack(zeros, codebook(SIGNED, zeros.device))
        state["root"], state["root_scale"] = pack(zeros, codebook(UNSIGNED, zeros.device))
        return state

    def given(self, step: int, device: torch.device) -> Given:
        """The corrections, and the levels of both averages."""
        return (*super().given(step, device), codebook(SIGNED, device), codebook(UNSIGNED, device))

    def direction(self, gradient: Tensor, state: Mapping[str, Tensor], given: Given) -> Tensor:
        """Unpack the averages, take the gradient into them, pack them again."""
        *corrections, signed, unsigned = given
        if "root" not in state:
            return super().direction(gradient, state, corrections)
        first = unpack(state["exp_avg"], state["exp_avg_scale"], signed)
        second = unpack(state["root"], state["root_scale"], unsigned).square_()
        direction = self._direction(gradient, first, second, *corrections)
        for name, values, book in (("exp_avg", first, signed), ("root", second.sqrt_(), unsigned)):
            codes, scales = pack(values, book)
            state[name].copy_(codes)
            state[f"{name}_scale"].copy_(scales)
        return direction
