"""Muon: momentum whose matrices are made orthogonal before they are applied (Jordan et al., 2024).

For training from random weights it needs a fraction of AdamW's steps: the pocket autoencoder reached in one minute
what took AdamW four. Updates are scaled as in arXiv:2502.16982 (0.2 sqrt(larger edge)), so that learning rate and
weight decay mean what they mean for AdamW, and AdamW itself takes the vectors, embeddings and outer layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from velatura.placement.on_cuda import is_on_cuda
from velatura.training.optimizers.by_tensor import decayed

_QUINTIC = (
    3.4445,
    -4.7750,
    2.0315,
)  # slope at zero as large as possible: singular values end in about 0.7..1.2
_ITERATIONS = 4
_MOMENTUM = 0.95
_INDEXED = re.compile(r"\.\d+\.")


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes a weight: matrices and convolutions of repeated layers, no embeddings, no outer layers."""
    return parameter.ndim >= 2 and bool(_INDEXED.search(name)) and "embed" not in name and "bias" not in name


def orthogonal(matrix: Tensor) -> Tensor:
    """About U V^T of a matrix's singular value decomposition, by Newton-Schulz iterations; float32 `[m, n]`.

    On CUDA they are made in bf16, as by the author: errors do not add up, for each iteration corrects the one before.
    """
    a, b, c = _QUINTIC
    x: Tensor = matrix / (matrix.norm() + 1e-7)
    if is_on_cuda(x.device):
        x = x.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.t() if tall else x
    for _ in range(_ITERATIONS):
        gram = x @ x.t()
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.t() if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Muon for hidden matrices, fused AdamW for all else, behind one state and one learning rate."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, lr: float, weight_decay: float, adamw: dict[str, Any]
    ) -> None:
        hidden = [p for name, p in parameters.items() if is_hidden_matrix(name, p)]
        taken = {id(p) for p in hidden}
        named = {name: p for name, p in parameters.items() if id(p) not in taken}
        groups = [
            {"params": hidden, "weight_decay": weight_decay, "muon": True},
            *({**group, **adamw, "muon": False} for group in decayed(named, weight_decay)),
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": lr})
        plain = [dict(group) for group in self.param_groups if not group["muon"]]
        self._adamw = torch.optim.AdamW(plain, lr=lr, **adamw) if plain else None
        if self._adamw is not None:
            self._adamw.state = (
                self.state
            )  # one state for saving; the groups are told the learning rate each step

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply the gradients."""
        for group in self.param_groups:
            if group["muon"]:
                self._step_matrices(group)
        if self._adamw is not None:
            plain = [group for group in self.param_groups if not group["muon"]]
            for inner, group in zip(self._adamw.param_groups, plain, strict=True):
                inner["lr"] = group["lr"]
            self._adamw.step()

    def _step_matrices(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"]
            momentum.lerp_(parameter.grad, 1 - _MOMENTUM)
            ahead = torch.lerp(parameter.grad, momentum, _MOMENTUM).flatten(1).float()  # Nesterov
            size = 0.2 * max(ahead.shape) ** 0.5
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(
                orthogonal(ahead).view_as(parameter).to(parameter.dtype), alpha=-group["lr"] * size
            )
