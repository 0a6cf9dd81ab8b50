"""How this process was started: by itself, or as one of several by a launcher. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from velatura.errors import RecipeError, VelaturaError

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The place of this process among those of the run, and among those of its machine (`local`)."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0  # so many times torchrun has begun again

    @property
    def echo(self) -> float:
        """Seconds within which signals are one: launchers pass on what their processes get anyway."""
        return 0.0 if self.size == 1 else 10.0

    @property
    def beside(self) -> range:
        """The ranks of the processes of this machine, this one among them."""
        first = self.rank - self.local_rank
        return range(first, first + self.local_size)

    @property
    def speaks(self) -> bool:
        """Whether this process tells what all of its machine would tell alike."""
        return self.local_rank == 0


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """What torchrun, `accelerate launch` and their like say in the environment; alone where they say nothing.

    Raises RecipeError where it is said by halves, or is no place among that many processes.
    """
    if not environment.get("WORLD_SIZE"):
        return Launch()
    missing = [name for name in NAMES if not environment.get(name)]
    if missing:
        raise RecipeError(
            f"WORLD_SIZE is set and {', '.join(missing)} not: several processes need all of {', '.join(NAMES)}. "
            "Start them with torchrun, which sets them, or unset WORLD_SIZE."
        )
    rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    local = _number(environment, "LOCAL_RANK") if environment.get("LOCAL_RANK") else rank
    beside = _number(environment, "LOCAL_WORLD_SIZE") if environment.get("LOCAL_WORLD_SIZE") else size
    if not (0 <= rank < size and 0 <= local < beside):
        raise RecipeError(
            f"RANK = {rank} of WORLD_SIZE = {size} and LOCAL_RANK = {local} of {beside} do not fit together: ranks "
            "count from 0 and are below the number of processes."
        )
    again = "TORCHELASTIC_RESTART_COUNT"
    restarts = _number(environment, again) if environment.get(again) else 0
    return Launch(rank=rank, size=size, local_rank=local, local_size=beside, restarts=restarts)


@contextmanager
def of_one_voice(launch: Launch) -> Iterator[None]:
    """Errors that all processes of a machine meet alike are told by one of them; the others end without a word."""
    try:
        yield
    except VelaturaError as error:
        if launch.speaks:
            raise
        raise SystemExit(error.exit_code) from None


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not (text.isascii() and text.isdigit()):
        raise RecipeError(f"{name} = '{text}' in the environment is no number; it is set by torchrun")
    return int(text)
