"""Shares: everything is taken once, and evenly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velatura.data.sharing import ALL, Share


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_are_even_and_complete(count: int, processes: int) -> None:
    things = list(range(count))
    shares = [Share(number=number, of=processes) for number in range(processes)]
    runs = [share.run_of(things) for share in shares]
    assert [thing for run in runs for thing in run] == things
    assert max(map(len, runs)) - min(map(len, runs)) <= 1
    assert len(runs[0]) == max(map(len, runs))
    steps = [share.every_of(things) for share in shares]
    assert sorted(thing for step in steps for thing in step) == things
    assert max(map(len, steps)) - min(map(len, steps)) <= 1


@pytest.mark.parametrize("things", [[], [1, 2, 3]])
def test_one_process_takes_all(things: list[int]) -> None:
    assert list(ALL.run_of(things)) == things == list(ALL.every_of(things))
