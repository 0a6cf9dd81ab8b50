"""What an optimizer step comes to, besides its gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from velatura.interfaces import Loss
from velatura.training.health.item_losses import ItemLoss, item_losses


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Weighted mean loss over the step's items, gradient norm before clipping, mean over items of the logged terms."""

    loss: float
    grad_norm: float
    skipped: bool
    terms: dict[str, float]
    items: Sequence[ItemLoss]
    images: int


@dataclass(frozen=True, kw_only=True)
class Computed:
    """A loss of a step, whose values may still be on their way: to read them is to wait for the device.

    `mean`: its share of the step's loss, 0-dim; the others are as in `Loss`.
    """

    names: Sequence[str]
    mean: Tensor
    per_item: Tensor
    t: Tensor | None
    terms: Mapping[str, float]

    @classmethod
    def of(cls, names: Sequence[str], mean: Tensor, loss: Loss) -> Computed:
        """Without what a backward pass wants."""
        per_item = loss.per_item.detach()
        return cls(names=names, mean=mean.detach(), per_item=per_item, t=loss.t, terms=loss.terms)

    def items(self) -> list[ItemLoss]:
        """Of each item."""
        return item_losses(self.names, self.per_item, self.t)


@dataclass(kw_only=True)
class StepSums:
    """What the micro-batches of a step add up to."""

    loss: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)
    items: list[ItemLoss] = field(default_factory=list)
    images: int = 0

    @classmethod
    def over(cls, processes: Sequence[StepSums]) -> StepSums:
        """Of what all processes have."""
        if len(processes) == 1:
            return processes[0]
        names = dict.fromkeys(name for one in processes for name in one.terms)
        return cls(
            loss=sum(one.loss for one in processes),
            terms={name: sum(one.terms.get(name, 0.0) for one in processes) for name in names},
            items=[item for one in processes for item in one.items],
            images=sum(one.images for one in processes),
        )

    def add(self, loss: float, items: Sequence[ItemLoss], terms: Mapping[str, float]) -> None:
        """A loss of some items, already divided by the step's weight; `terms` are means over them."""
        self.loss += loss
        self.items += items
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value * len(items)

    def result(self, norm: float) -> StepResult:
        """Of the whole step; a norm that is not finite is that of a step that was left out."""
        return StepResult(
            loss=self.loss,
            grad_norm=norm,
            skipped=not math.isfinite(norm),
            terms={name: value / self.images for name, value in self.terms.items()},
            items=self.items,
            images=self.images,
        )
