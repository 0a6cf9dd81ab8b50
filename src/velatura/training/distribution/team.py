"""The processes of a run: what they tell each other, what they add up. One process alone exchanges nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from velatura.data.sharing import Share
from velatura.training.distribution.launch import Launch
from velatura.training.distribution.watch import Watch

T = TypeVar("T")
PIECE = 2**26  # values of gradients that are added up in one go: 256 MiB


@dataclass(frozen=True, kw_only=True)
class Team:
    """The place of this process among all, and the ways to the others; `Team()` is one process alone.

    All processes must call what exchanges something, in the same order.
    """

    launch: Launch = field(default_factory=Launch)
    control: Any = None  # a group over gloo, for what is on the CPU
    watch: Watch | None = None

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.launch.size

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.size == 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.launch.rank == 0

    @property
    def share(self) -> Share:
        """Of work that is shared out."""
        return Share(number=self.launch.rank, of=self.size)

    def wait(self) -> None:
        """Until all are here."""
        if not self.alone:
            dist.barrier(group=self.control)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The block is run by the leader, then by all others: they find what it left on the disk."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes, in float64."""
        if self.alone:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return tensor.tolist()

    def any(self, flag: bool) -> bool:
        """Whether it is true for any process."""
        return self.sums([float(flag)])[0] > 0

    def gathered(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in flat pieces; those of sharded weights are added up already.

        All run the same network, so the same parameters have gradients everywhere.
        """
        if self.alone:
            return
        gradients: list[Tensor] = [
            parameter.grad
            for parameter in parameters
            if parameter.grad is not None and not isinstance(parameter, DTensor)
        ]
        for some in _pieces(gradients):
            flat = torch.cat([gradient.flatten().float() for gradient in some])
            dist.all_reduce(flat)
            parts = flat.split([gradient.numel() for gradient in some])
            for gradient, part in zip(some, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


def _pieces(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of about `PIECE` values together, and larger ones alone."""
    piece: list[Tensor] = []
    values = 0
    for gradient in gradients:
        if piece and values + gradient.numel() > PIECE:
            yield piece
            piece, values = [], 0
        piece.append(gradient)
        values += gradient.numel()
    if piece:
        yield piece
