"""Every random number of a run, from one counter-based generator.

A draw is a pure function of (seed, stream, step, slot): the Philox counter holds step and slot, the key holds
seed and stream. So results depend neither on the number of workers or processes, nor on where a run was resumed:
there is no generator state to save.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def _generator(seed: int, stream: str, step: int, slot: int) -> np.random.Generator:
    """Philox-4x64 keyed by (seed, stream), its counter at (step, slot)."""
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype=np.uint64)
    counter = np.array([0, 0, slot, step], dtype=np.uint64)  # the low words count within the draw
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The random numbers of one batch: one independent stream per slot.

    `slots` are the positions of the items in the *global* batch of the step (over ranks and micro-steps), so two
    processes with half the batch draw what one process with all of it draws.
    """

    seed: int
    step: int
    slots: tuple[int, ...]

    @classmethod
    def of(cls, seed: int, *, step: int = 0, slots: int | Sequence[int] = 1) -> Draw:
        """A draw for `slots` items (a count, or the slot numbers themselves)."""
        chosen = range(slots) if isinstance(slots, int) else slots
        return cls(seed=seed, step=step, slots=tuple(chosen))

    def normal(self, stream: str, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, float32 `[B, *shape]` on the CPU, B = number of slots."""
        rows = [self._of(stream, slot).standard_normal(tuple(shape), dtype=np.float32) for slot in self.slots]
        return torch.from_numpy(np.stack(rows))

    def uniform(self, stream: str, shape: Sequence[int] = ()) -> Tensor:
        """Uniform numbers in [0, 1), float32 `[B, *shape]` on the CPU."""
        rows = [
            np.asarray(self._of(stream, slot).random(tuple(shape), dtype=np.float32)) for slot in self.slots
        ]
        return torch.from_numpy(np.stack(rows))

    def integers(self, stream: str, high: int) -> list[int]:
        """One integer in [0, high) per slot."""
        return [int(self._of(stream, slot).integers(high)) for slot in self.slots]

    def generators(self, stream: str) -> list[np.random.Generator]:
        """One generator per slot, for draws whose number is not known beforehand."""
        return [self._of(stream, slot) for slot in self.slots]

    def select(self, positions: Sequence[int]) -> Draw:
        """The draw of a part of the batch: `positions` index this draw's slots."""
        return Draw(seed=self.seed, step=self.step, slots=tuple(self.slots[i] for i in positions))

    def _of(self, stream: str, slot: int) -> np.random.Generator:
        return _generator(self.seed, stream, self.step, slot)


def permutation(seed: int, stream: str, step: int, count: int) -> list[int]:
    """A random order of `count` things (epoch order: `step` is the epoch)."""
    return [int(i) for i in _generator(seed, stream, step, 0).permutation(count)]


def generator_for(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator, where torch's own functions want one: weight initialisation, draws as large as the weights."""
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
