"""Sizes and times as plans write them."""

from __future__ import annotations

import pytest

from velatura.planning.devices import GIB
from velatura.planning.figures import enough, seconds, within
from velatura.recipe.byte_sizes import size_in_bytes

MIB = 2**20


@pytest.mark.parametrize(
    ("count", "up", "down"),
    [
        (24 * GIB, "24.0 GiB", "24.0 GiB"),
        (24 * GIB + MIB, "24.1 GiB", "24.0 GiB"),
        (size_in_bytes("0.9GiB"), "0.9 GiB", "0.9 GiB"),
        (860 * MIB, "0.9 GiB", "0.8 GiB"),
        (int(3.14 * MIB), "3.2 MiB", "3.1 MiB"),
    ],
)
def test_what_is_needed_is_rounded_up_and_what_is_too_little_down(count: int, up: str, down: str) -> None:
    assert (enough(count), within(count)) == (up, down)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0.123, "0.12 s"),
        (42.3, "42 s"),
        (600, "10 min"),
        (3 * 3600, "3.0 h"),
        (72 * 3600, "3 days"),
    ],
)
def test_seconds(count: float, text: str) -> None:
    assert seconds(count) == text
