"""Contestants in a process each, asked for one step after the other, so that a busy machine slows all of them alike."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

Step = Callable[[], object]
"""One step; it returns when the device has finished."""

Contestants = dict[str, tuple[Callable[..., Step], Sequence[Any]]]
"""Name -> what builds a contestant in its process, and the arguments of that."""


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
    """Build each contestant in a process of its own, warm it up alone, then let all take turns."""
    with ExitStack() as stack:
        pipes = {
            name: stack.enter_context(_process(make, arguments, threads, warm))
            for name, (make, arguments) in contestants.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in pipes}
        for _ in range(rounds):
            for name, pipe in pipes.items():
                seconds[name].append(_ask(pipe, "step"))
        return {
            name: Result(seconds=tuple(seconds[name]), **_ask(pipe, "memory")) for name, pipe in pipes.items()
        }


@contextmanager
def _process(
    make: Callable[..., Step], arguments: Sequence[Any], threads: int, warm: int
) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, make, arguments, threads, warm), daemon=True)
    process.start()
    theirs.close()
    try:
        ours.recv()  # ready
        yield ours
    finally:
        ours.close()
        process.join(10)


def _ask(pipe: Connection, what: str) -> Any:
    pipe.send(what)
    return pipe.recv()


def _serve(
    pipe: Connection, make: Callable[..., Step], arguments: Sequence[Any], threads: int, warm: int
) -> None:
    import torch

    torch.set_num_threads(threads)
    before = _peak()
    step = make(*arguments)
    for _ in range(warm):
        step()
    pipe.send("ready")
    try:
        while True:
            if pipe.recv() == "memory":
                pipe.send({"before": before, "peak": _peak()})
                continue
            started = time.perf_counter()
            step()
            pipe.send(time.perf_counter() - started)
    except EOFError:
        return


def _peak() -> float:
    """GiB that this process held at most."""
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
