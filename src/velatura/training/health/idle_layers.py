"""LoRA layers that learn nothing: those whose up projection gets no gradient at all."""

from __future__ import annotations

from typing import Any

import torch

from velatura.adapters.attach import Adapter
from velatura.events import Events
from velatura.plural import agreeing, counted

LOOKS = 10  # updates after the start, or after a resume, whose gradients are looked at
NAMED = 5


class IdleLayers:
    """Looks at the gradients of an adapter's first updates, and warns of layers where all were exactly zero.

    B starts at zero, so that the down projection gets no gradient in the first step: only the up projection tells.
    A learning rate cannot make a layer idle: however small it is, what was zero changes.
    """

    def __init__(
        self, adapter: Adapter, optimizer: torch.optim.Optimizer, events: Events, steps: int
    ) -> None:
        self._layers = adapter.layers
        self._events = events
        self._left = min(LOOKS, steps)
        self._learned: set[str] = set()
        self._hook = optimizer.register_step_pre_hook(self._look) if self._left > 0 else None

    def _look(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Before an update, when gradients are whole and clipped."""
        gradients = {
            name: layer.up.grad
            for name, layer in self._layers.items()
            if name not in self._learned and layer.up.grad is not None
        }
        if gradients:
            norms = torch.stack(torch._foreach_norm(list(gradients.values()))).tolist()
            self._learned |= {name for name, norm in zip(gradients, norms, strict=True) if norm > 0}
        self._left -= 1
        if self._left == 0 and self._hook is not None:
            self._hook.remove()
            self._tell()

    def _tell(self) -> None:
        idle = [name for name in self._layers if name not in self._learned]
        if not idle:
            return
        few = ", ".join(idle[:NAMED]) + (f" and {len(idle) - NAMED} more" if len(idle) > NAMED else "")
        self._events.warn(
            f"{len(idle)} of {counted(len(self._layers), 'adapted layer')} {agreeing(len(idle), 'gets', 'get')} no "
            f"gradient and {agreeing(len(idle), 'learns', 'learn')} nothing: {few}. "
            "Either the model does not use what they compute (leave them out of adapter.targets), or their alpha is 0, "
            'or their gradients are too small for the precision (precision = "bf16" or "fp32")'
        )
