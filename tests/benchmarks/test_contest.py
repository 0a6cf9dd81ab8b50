"""What becomes of a contestant that cannot be built, breaks down, or is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest


def building(kind: str) -> Callable[[], object]:
    """A contestant's step."""
    if kind == "unbuilt":
        raise ValueError("no such network")

    def step() -> None:
        if kind == "broken":
            raise MemoryError
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)

    return step


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("unbuilt", "theirs: ValueError: no such network"),
        ("broken", "theirs: MemoryError"),
        ("killed", "theirs: its process ended, perhaps for want of memory"),
    ],
)
def test_the_script_ends_with_what_it_says(kind: str, said: str) -> None:
    contest: Any = import_module("contest")
    contestants = {"ours": (building, ("sound",)), "theirs": (building, (kind,))}
    with pytest.raises(contest.Failed) as failed:
        contest.run(contestants, rounds=1, threads=1, warm=1)
    assert str(failed.value) == said
    assert isinstance(failed.value, SystemExit)
