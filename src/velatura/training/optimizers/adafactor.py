"""Adafactor: of each matrix only the mean squared gradient of every row and column is remembered (arXiv:1804.04235)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from velatura.training.optimizers.by_tensor import Given, State

_TINY = 1e-30  # added to squared gradients
_DECAY = 0.8  # of averages: 1 - step^-0.8
_MOST = 1.0  # root mean square of an update, above which it is scaled down


class Adafactor:
    """The gradient over the root of its factored second moment, with a root mean square of at most 1.

    Without momentum, and at the learning rate of the recipe: neither the paper's own rate over time nor its scaling by
    the size of the weights, as is usual for fine-tuning. Convolution kernels count as matrices `[out, rest]`.
    """

    by_value = False

    def fresh(self, parameter: Tensor) -> State:
        """An average per row and per column; of a vector one per value."""
        if parameter.ndim < 2:
            return {"square": torch.zeros_like(parameter, dtype=torch.float32)}
        rows, columns = parameter.flatten(1).shape
        return {
            "rows": torch.zeros(rows, 1, device=parameter.device),
            "columns": torch.zeros(1, columns, device=parameter.device),
        }

    def given(self, step: int, device: torch.device) -> Given:
        """The share of this step's gradient in the averages."""
        return (step**-_DECAY,)

    def direction(self, gradient: Tensor, state: Mapping[str, Tensor], given: Given) -> Tensor:
        """Take the gradient into the averages."""
        (share,) = given
        if gradient.ndim < 2:
            square = state["square"].lerp_(gradient.square() + _TINY, share)
            direction = gradient / square.sqrt()
        else:
            matrix = gradient.flatten(1)
            squares = matrix.square() + _TINY
            rows = state["rows"].lerp_(squares.mean(1, keepdim=True), share)
            columns = state["columns"].lerp_(squares.mean(0, keepdim=True), share)
            direction = matrix * (rows / rows.mean()).rsqrt_() * columns.rsqrt()
        size = direction.square().mean().sqrt()
        return (direction / (size / _MOST).clamp(min=1)).view(gradient.shape)
