"""An optimizer for each parameter alone, so that what an update wants can come, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice

import torch
from torch import Tensor, nn

from velatura.training.distribution.sharding import local
from velatura.training.optimizers.visits import Visits

Make = Callable[[Mapping[str, nn.Parameter]], torch.optim.Optimizer]


class Apart(torch.optim.Optimizer):
    """Optimizers made by `make`, with one state and one learning rate; an update looks at nothing but its parameter.

    `visits`: where some of what they read and write is not on the device between updates.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], make: Make, visits: Visits | None = None
    ) -> None:
        self.visits = visits
        self._alone = {parameter: make({name: parameter}) for name, parameter in parameters.items()}
        self._names = {parameter: name for name, parameter in parameters.items()}
        self._sizes: list[Tensor] = []  # norms of the weights that were updated
        groups = [group for one in self._alone.values() for group in one.param_groups]
        super().__init__(groups, {})  # the same groups: a learning rate that is set here counts there
        for parameter, one in self._alone.items():
            self.state[parameter] = one.state[parameter]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply the gradients that are there."""
        ready = [parameter for parameter in self._alone if parameter.grad is not None]
        for number, parameter in enumerate(ready, start=1):
            self.update(parameter, islice(ready, number, None))
        if self.visits is not None:
            self.visits.finish()

    def update(self, parameter: nn.Parameter, after: Iterable[nn.Parameter]) -> None:
        """Of one parameter; `after`: those that come next, as far as that is known."""
        visits, state = self.visits, self.state[parameter]
        if visits is not None:
            visits.come(parameter, state)
            any(map(visits.ask, after))  # up to the first that has to come
        self._alone[parameter].step()
        self._sizes.append(torch.linalg.vector_norm(local(parameter.detach())))
        if visits is not None:
            visits.go(parameter, state)

    def take_finite(self) -> bool:
        """Whether all weights that were updated since this was last asked for are finite."""
        sizes, self._sizes = self._sizes, []
        return not sizes or bool(torch.stack(sizes).isfinite().all())


def apart(optimizer: torch.optim.Optimizer) -> Apart | None:
    """The optimizer, where it is one of those."""
    return optimizer if isinstance(optimizer, Apart) else None
