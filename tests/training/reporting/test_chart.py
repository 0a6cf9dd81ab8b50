"""Curves stand at the right places of a frame with readable axes, and the legend says which is which."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velatura.training.reporting.chart import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TICKS,
    TOP,
    WIDTH,
    chart,
    ticks,
)

from .test_report import Sound


def drawn_points(picture: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]
        for points in re.findall(r"points='([^']*)'", picture)
    ]


def words(picture: str) -> list[str]:
    page = Sound()
    page.feed(picture)
    assert page.open == []
    return page.words


def test_curves_share_one_frame() -> None:
    picture = chart([("a", [(0, 0.0), (100, 1.0)]), ("b", [(50, 2.0), (200, 0.5)])])
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    middle = (LEFT + right) / 2
    half, quarter = (TOP + bottom) / 2, (TOP + 3 * bottom) / 4
    assert drawn_points(picture) == [
        [(LEFT, bottom), (middle, half)],
        [(LEFT + (right - LEFT) / 4, TOP), (right, quarter)],
    ]


def test_the_axes_have_numbers_and_titles() -> None:
    told = words(chart([("a", [(1, 0.95), (2000, 0.2)])]))
    assert {"0.2", "0.4", "0.6", "0.8", "500", "1,000", "1,500", "2,000", "step", "loss"} <= set(told)


def test_the_legend_tells_first_last_and_lowest() -> None:
    picture = chart([("none", []), ("<b>faces</b>", [(10, 2.0), (20, 0.5), (30, 0.75)])])
    assert words(picture)[-8:] == [
        "curve", "first", "last", "lowest", "<b>faces</b>", "2.0000", "0.7500", "0.5000 (step 20)",
    ]  # fmt: skip
    assert (
        picture.count(COLOURS[1]) == 1 + 3 + 1
    )  # line, dots, legend: the second place, though the first is empty
    assert COLOURS[0] not in picture


def test_what_is_cut_off_is_told() -> None:
    fall = [(step, 9.0 if step == 1 else 1.0) for step in range(1, 21)]
    assert "What lies above 1 (up to 9) is drawn at the upper edge." in words(chart([("a", fall)]))
    assert "upper edge" not in chart([("a", fall[1:])])


def test_a_single_point_is_told_and_not_drawn_alone() -> None:
    alone = chart([("a", [(7, 0.25)])])
    assert "<svg" not in alone
    assert words(alone)[-3:] == ["0.2500", "0.2500", "0.2500 (step 7)"]
    assert chart([("a", []), ("b", [])]) == ""
    beside = chart([("a", [(1, 1.0), (9, 0.5)]), ("b", [(5, 0.75)])])
    assert len(re.findall("<circle", beside)) == 2 + 1


def test_a_flat_curve_can_be_drawn() -> None:
    picture = chart([("a", [(1, 0.5), (2, 0.5)])])
    assert drawn_points(picture) == [[(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)]]
    assert "0.5000" in words(picture)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.11, 0.14, [0.11, 0.12, 0.13, 0.14]),
        (3.0, 3.0, [3]),
        (-1.0, 9.0, [0, 2, 4, 6, 8]),
    ],
)
def test_ticks_by_hand(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_whole_ticks() -> None:
    assert ticks(1, 3, whole=True) == [1, 2, 3]
    assert ticks(0, 1500, whole=True) == [0, 500, 1000, 1500]


@given(st.floats(-1e6, 1e6), st.floats(1e-5, 1e5))
def test_ticks_are_few_even_and_inside(low: float, share: float) -> None:
    span = share * max(abs(low), 1e-3)
    high = low + span
    found = ticks(low, high)
    assert 2 <= len(found) <= TICKS
    assert low - 1e-6 * span <= found[0]
    assert found[-1] <= high + 1e-6 * span
    gaps = [b - a for a, b in pairwise(found)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps), rel=1e-3)
