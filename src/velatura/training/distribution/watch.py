"""Knowing what became of the other processes, also while this one computes or waits for them.

All processes exchange a word every half second, on connections of their own. A process that fails says so and why;
one that was killed says nothing, and its connections break. Either way the others know within seconds.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from velatura.plural import agreeing
from velatura.training.distribution.launch import Launch
from velatura.training.lock import is_alive, process_start

BEAT = 0.5  # seconds between two words
SILENCE = timedelta(minutes=5)  # a machine that vanished breaks no connection
GRACE = 10.0  # seconds in which a process ends by itself once it cannot go on
LOOK = 1.0  # seconds in which all look who died, before the first of them leaves for that
WORD = 1024  # bytes

ON, FAILED, STOPPED, DONE = b".!-="


class Watch:
    """The words of all processes. `news` says what became of another one, once that makes it useless to go on."""

    def __init__(self, group: Any, launch: Launch) -> None:
        """All processes must come here together: they tell each other who they are."""
        self.news: str | None = None
        self.stopped = False  # the news is that someone stopped, which is no failure
        self.died: list[int] = []  # processes of this machine that ended without a word
        self._group = group
        self._launch = launch
        self._rank = launch.rank
        self._words: list[tuple[int, str]] = [(ON, "")] * launch.size
        self._own = (ON, "")
        self._ids: list[Any] = [None] * launch.size
        dist.all_gather_object(self._ids, (os.getpid(), process_start()), group=group)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    @property
    def speaks(self) -> bool:
        """Whether this process tells the user what all of its machine know: the first of those that are there."""
        return self._rank == min(rank for rank in self._launch.beside if rank not in self.died)

    @property
    def has_spoken(self) -> bool:
        """Whether this process has told the others its end."""
        return self._own[0] in (FAILED, STOPPED)

    def fail(self, message: str) -> None:
        """Tell the others that this process fails, and why; returns when they know."""
        self._last_word(FAILED, message)

    def stop(self) -> None:
        """Tell the others that this process was stopped before there was anything to save."""
        self._last_word(STOPPED, "")

    def leave(self) -> None:
        """Wait until all processes are done; then nobody takes an end for a failure."""
        self._own = (DONE, "")
        self._over.wait()

    def said_before(self, message: str) -> bool:
        """Whether a process of lower rank failed with the same message."""
        return (FAILED, _cut(message)) in self._words[: self._rank]

    def wait_for_news(self, seconds: float = 3.0) -> bool:
        """Whether there is news, now or soon: who waits for another process often hears of its end first."""
        self._over.wait(seconds)
        return self.news is not None

    def _last_word(self, kind: int, message: str) -> None:
        self._own = (kind, message)
        self._over.wait(4 * BEAT)

    def _run(self) -> None:
        connected = True
        try:
            while not self._exchange():
                time.sleep(BEAT)
        except RuntimeError:
            connected = False
        if not connected:
            self._look_who_died()
        self._over.set()
        if self.news is not None and self._own[0] in (ON, DONE):
            self._leave_by_force()

    def _exchange(self) -> bool:
        """One round of words; whether it was the last one."""
        own = bytes([self._own[0]]) + _cut(self._own[1]).encode()
        mine = torch.frombuffer(bytearray(own.ljust(WORD, b"\0")), dtype=torch.uint8)
        all_words = [torch.empty_like(mine) for _ in self._words]
        dist.all_gather(all_words, mine, group=self._group)
        self._words = [_word(bytes(word.tolist())) for word in all_words]
        kinds = [kind for kind, _ in self._words]
        others = [(rank, *word) for rank, word in enumerate(self._words) if rank != self._rank]
        for rank, kind, message in others:
            if kind in (FAILED, STOPPED) and self.news is None:
                self.stopped = kind == STOPPED
                what = "was stopped" if self.stopped else f"failed: {message}"
                self.news = f"process {rank} of this run {what}"
        return any(kind in (FAILED, STOPPED) for kind in kinds) or all(kind == DONE for kind in kinds)

    def _look_who_died(self) -> None:
        """A process lets go of its connections a little before it is gone."""
        dist.destroy_process_group(self._group)
        self._group = None  # breaks the connections to the others: whoever waits for this process looks, too
        ends = time.monotonic() + LOOK
        while time.monotonic() < ends:
            self.died = self.died or [rank for rank in self._launch.beside if not is_alive(*self._ids[rank])]
            time.sleep(LOOK / 20)
        who = "another process"
        if self.died:
            who = f"{agreeing(len(self.died), 'process', 'processes')} {', '.join(map(str, self.died))}"
        self.news = (
            f"{who} of this run ended without a word (killed, perhaps for lack of memory); "
            "--resume goes on from the state that was saved last"
        )

    def _leave_by_force(self) -> None:
        """The main thread may wait for the dead for ever, in a call that nothing interrupts."""
        time.sleep(GRACE)
        if self.speaks:
            sys.stderr.write(f"error: {self.news}\n")
            sys.stderr.flush()
        os._exit(1)


def _cut(message: str) -> str:
    """As much of a message as a word can hold."""
    return message.encode()[: WORD - 1].decode(errors="ignore")


def _word(data: bytes) -> tuple[int, str]:
    return data[0], data[1:].rstrip(b"\0").decode(errors="replace")
