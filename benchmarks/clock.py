"""A link and a network that take time and compute nothing: streaming as it would be on a device that is not here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.append(
    str(Path(__file__).parents[1] / "tests" / "placement")
)  # the link that tests of streaming use

from simulated import SimulatedLink, Timed


class ClockLink(SimulatedLink):
    """With host memory that has a size and no values."""

    def host(self, size: int) -> Tensor:
        """`[size]` uint8 on the meta device."""
        return torch.empty(size, dtype=torch.uint8, device="meta")


def clocked(
    module: nn.Module, link: ClockLink, run: Callable[..., Any], *, forward: float, backward: float
) -> None:
    """Let the module's forward be `run`, after so many seconds of computation; those of its backward are `backward`."""

    def timed(*inputs: Any) -> Any:
        link.compute(forward)
        return run(
            *(
                Timed.apply(x, lambda: link.compute(backward))
                if isinstance(x, Tensor) and x.requires_grad
                else x
                for x in inputs
            )
        )

    module.forward = timed
