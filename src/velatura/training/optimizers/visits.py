"""What an update reads and writes may live in the machine's memory: it visits the device for the update.

The averages of an optimizer that is offloaded do, and streamed weights with their gradients. What the next update wants
is fetched while this one is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from velatura.placement.streamed.links import Link

LEAST = 2**20  # bytes; smaller averages stay on the device
HOST = torch.device("cpu")
State = dict[str, Any]


class Visits:
    """`weights`: parameters that are on the host between updates, with their gradients; `states`: the averages are.

    `norms`: of these gradients, as tensors on the device. `clip` is what they are multiplied with when they visit.
    """

    def __init__(
        self,
        device: torch.device,
        link: Link,
        *,
        weights: Sequence[nn.Parameter] = (),
        states: bool = False,
        norms: Mapping[nn.Parameter, Tensor] | None = None,
    ) -> None:
        self.norms = {} if norms is None else norms
        self.clip: Tensor | None = None
        self.device = device
        self._link = link
        self._weights = set(weights)
        self._states = states
        self._homes: dict[nn.Parameter, dict[str, Tensor]] = {}  # of averages
        self._coming: dict[nn.Parameter, list[tuple[Tensor, Any]]] = {}
        self._weight_homes: dict[nn.Parameter, Tensor] = {}  # of what is on the device now
        self._going: dict[nn.Parameter, list[Any]] = {}  # moments when the host has the newest values

    def home(self, value: Tensor) -> torch.device:
        """Where a value of the optimizer's state is between updates."""
        return HOST if self._stays_away(value) else self.device

    def ask(self, parameter: nn.Parameter) -> bool:
        """Begin to fetch what an update of the parameter wants; whether anything is."""
        if parameter not in self._coming:
            wanted = [parameter.data, _gradient(parameter)] if parameter in self._weights else []
            wanted += self._homes.get(parameter, {}).values()
            after = self._going.get(parameter, ())
            self._coming[parameter] = [self._fetch(home, *after) for home in wanted]
        return bool(self._coming[parameter])

    def come(self, parameter: nn.Parameter, state: State) -> None:
        """Let everything be on the device for what is computed next."""
        self.ask(parameter)
        there = []
        for copy, moment in self._coming.pop(parameter):
            self._link.wait(moment)
            there.append(copy)
        if parameter in self._weights:
            weight, gradient, *there = there
            if self.clip is not None:
                gradient.mul_(self.clip)
            self._weight_homes[parameter] = parameter.data
            _set(parameter, weight, gradient)
        known = self._homes.get(parameter, {})
        for name, value in state.items():
            if name not in known and isinstance(value, Tensor) and self._stays_away(value):
                state[name] = value.to(self.device)  # as it was read from a file
        state |= zip(known, there, strict=True)

    def go(self, parameter: nn.Parameter, state: State) -> None:
        """The update is made: begin to take back what lives on the host."""
        homes, going = self._homes.setdefault(parameter, {}), self._going.setdefault(parameter, [])
        for name, value in state.items():
            if isinstance(value, Tensor) and self._stays_away(value):
                if name not in homes:
                    homes[name] = self._link.host(value.nbytes).view(value.dtype).view(value.shape)
                going.append(self._link.take(value, homes[name]))
                state[name] = homes[name]
        if parameter in self._weights:
            home = self._weight_homes.pop(parameter)
            going.append(self._link.take(parameter.data, home))
            _set(parameter, home, None)

    def finish(self) -> None:
        """Return when the host has all that went."""
        for moment in chain.from_iterable(self._going.values()):
            self._link.meet(moment)
        self._going.clear()

    def _stays_away(self, value: Tensor) -> bool:
        return self._states and value.nbytes >= LEAST

    def _fetch(self, home: Tensor, *after: Any) -> tuple[Tensor, Any]:
        copy = torch.empty_like(home, device=self.device)
        return copy, self._link.send(home, copy, self._link.mark(), *after)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _set(parameter: nn.Parameter, weight: Tensor, gradient: Tensor | None) -> None:
    parameter.grad = None  # a gradient is where its weight is
    parameter.data = weight
    parameter.grad = gradient
