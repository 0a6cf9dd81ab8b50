"""Cases in processes: each tells what it is at in shared memory, so that its parent knows what killed it."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .target import Outcome, Target, digest, run
from .watch import fast_folder, limit_memory

BATCH = 1000  # cases of a process: what a library leaks does not add up
ROOM = 3 * 2**30  # bytes that a process may allocate; what a case may touch, `watch` says
PATIENCE = 60.0  # seconds after which a case is ended that signals cannot end


@dataclass(kw_only=True)
class Report:
    """What became of the cases of one reader."""

    name: str
    cases: int = 0
    seconds: float = 0.0  # of processors
    refusals: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    saved: dict[str, Path] = field(default_factory=dict)  # failure -> the first input that led to it

    def add(self, target: Target, number: int, seed: int, outcome: Outcome, save: Path) -> None:
        """Count an outcome; keep the first input of each kind of failure."""
        self.cases += 1
        if outcome.refusal:
            self.refusals[outcome.refusal] += 1
        if not outcome.failure:
            return
        self.failures[outcome.failure] += 1
        if outcome.failure in self.saved:
            return
        data = target.case(number, seed)
        path = save / f"{target.name.replace(' ', '-')}-{digest(data)}"
        save.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        Path(f"{path}.txt").write_text(
            f"{target.name}, case {number}, seed {seed}\n{outcome.failure}\n{outcome.trace}",
            "utf-8",
            "replace",
        )
        self.saved[outcome.failure] = path


def run_all(targets: Sequence[Target], count: int, workers: int, seed: int, save: Path) -> Iterator[Report]:
    """A report per reader, in order; batches of cases are run by so many processes at once."""
    for target in targets:
        report = Report(name=target.name)
        waiting = [range(begin, min(begin + BATCH, count)) for begin in range(0, count, BATCH)]
        running: list[_Batch] = []
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_Batch(target, waiting.pop(0), seed))
            for batch in list(running):
                for number, outcome in batch.poll():
                    report.add(target, number, seed, outcome, save)
                if (rest := batch.rest()) is not None:
                    report.seconds += batch.seconds
                    running.remove(batch)
                    waiting[:0] = rest
        yield report


class _Batch:
    """A process at work on some cases."""

    def __init__(self, target: Target, numbers: range, seed: int) -> None:
        context = multiprocessing.get_context("fork")  # what the readers need is imported once
        self._numbers = numbers
        self._at: Any = context.Value("q", numbers.start, lock=False)
        self._pipe, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(target, numbers, seed, self._at, theirs))
        self._process.start()
        theirs.close()
        self._seen, self._since = numbers.start, time.monotonic()
        self._ended: list[range] | None = None
        self.seconds = 0.0  # of the processor

    def poll(self) -> list[tuple[int, Outcome]]:
        """Outcomes since the last time; waits a moment for them."""
        found: list[tuple[int, Outcome]] = []
        try:
            if self._pipe.poll(0.05):
                found, self.seconds = self._pipe.recv()
                self._ended = []
        except EOFError:
            found += self._crashed("")
        if self._at.value != self._seen:
            self._seen, self._since = self._at.value, time.monotonic()
        elif self._ended is None and time.monotonic() - self._since > PATIENCE:
            self._process.kill()
            found += self._crashed(f"hangs for {PATIENCE:g} s")
        return found

    def rest(self) -> list[range] | None:
        """The cases that are still to be run, once the process has ended; None while it works."""
        if self._ended is None:
            return None
        self._process.join()
        self._pipe.close()
        return self._ended

    def _crashed(self, why: str) -> list[tuple[int, Outcome]]:
        """The case that ended the process; those before it are run again, for it took their outcomes along."""
        self._process.join()
        if not why:
            code = self._process.exitcode or 0
            why = f"ends the process: {signal.Signals(-code).name if code < 0 else f'exit {code}'}"
        at = self._at.value
        rest = (range(self._numbers.start, at), range(at + 1, self._numbers.stop))
        self._ended = [numbers for numbers in rest if numbers]
        return [(at, Outcome(failure=why))]


def _work(target: Target, numbers: range, seed: int, at: Any, pipe: Connection) -> None:
    limit_memory(ROOM)
    start = time.process_time()
    found = []
    with tempfile.TemporaryDirectory(dir=fast_folder(), prefix="velatura-fuzz-") as folder:
        for number in numbers:
            at.value = number
            found.append((number, run(target, target.case(number, seed), Path(folder))))
    pipe.send((found, time.process_time() - start))
    pipe.close()
