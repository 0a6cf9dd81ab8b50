"""Contestants in a process each, asked for one step after the other, so that a busy machine slows all of them alike."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from velatura.errors import reason

Step = Callable[[], object]
"""One step; it returns when the device has finished."""

Contestants = dict[str, tuple[Callable[..., Step], Sequence[Any]]]
"""Name -> what builds a contestant in its process, and the arguments of that."""


class Failed(SystemExit):
    """A contestant that could not be built, or broke down; a script that does not catch it ends with what it says."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A contestant's seconds per step, and the resident memory of its process."""

    seconds: tuple[float, ...]
    before: float  # GiB with torch, before the contestant was built
    peak: float  # GiB at most

    @property
    def median(self) -> float:
        """Seconds of the step in the middle."""
        return statistics.median(self.seconds)


def ratio(result: Result, base: Result) -> float:
    """The median over rounds of this one's time by the other's: neighbours in time are compared."""
    pairs = zip(result.seconds, base.seconds, strict=True)
    return statistics.median(own / other for own, other in pairs)


def run(
    contestants: Contestants,
    *,
    rounds: int,
    threads: int,
    warm: int = 2,
) -> dict[str, Result]:
    """Build each contestant in a process of its own, warm it up alone, then let all take turns. Raises Failed."""
    with ExitStack() as stack:
        pipes = {
            name: stack.enter_context(_process(name, make, arguments, threads, warm))
            for name, (make, arguments) in contestants.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in pipes}
        for _ in range(rounds):
            for name, pipe in pipes.items():
                seconds[name].append(_ask(name, pipe, "step"))
        return {
            name: Result(seconds=tuple(seconds[name]), **_ask(name, pipe, "memory"))
            for name, pipe in pipes.items()
        }


@contextmanager
def _process(
    name: str, make: Callable[..., Step], arguments: Sequence[Any], threads: int, warm: int
) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, make, arguments, threads, warm), daemon=True)
    process.start()
    theirs.close()
    try:
        _heard(name, ours)  # that it is ready
        yield ours
    finally:
        ours.close()
        process.join(60)  # the next one may want the memory that it gives back
        process.kill()


def _ask(name: str, pipe: Connection, what: str) -> Any:
    with suppress(OSError):  # one that is dead is told of when it does not answer
        pipe.send(what)
    return _heard(name, pipe)


def _heard(name: str, pipe: Connection) -> Any:
    try:
        said = pipe.recv()
    except (EOFError, OSError):
        raise Failed(f"{name}: its process ended, perhaps for want of memory") from None
    if isinstance(said, Failed):
        raise Failed(f"{name}: {said}")
    return said


def _serve(
    pipe: Connection, make: Callable[..., Step], arguments: Sequence[Any], threads: int, warm: int
) -> None:
    import torch

    torch.set_num_threads(threads)
    before = _peak()
    try:
        step = make(*arguments)
        for _ in range(warm):
            step()
        pipe.send("ready")
        while True:
            if pipe.recv() == "memory":
                pipe.send({"before": before, "peak": _peak()})
                continue
            started = time.perf_counter()
            step()
            pipe.send(time.perf_counter() - started)
    except EOFError:
        return
    except Exception as error:
        pipe.send(Failed(reason(error)))


def _peak() -> float:
    """GiB that this process held at most."""
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
