from __future__ import annotations

import re

from velatura.training.reporting.curves import POINTS, running_means, svg, thinned, window_of


def test_running_means_by_hand() -> None:
    points = [(1, 1.0), (2, 3.0), (3, 5.0), (4, 1.0)]
    assert running_means(points, 1) == points
    assert running_means(points, 2) == [(1, 1.0), (2, 2.0), (3, 4.0), (4, 3.0)]
    assert running_means(points, 3) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 3.0)]
    assert running_means([], 3) == []


def test_the_window_is_a_twentieth() -> None:
    assert [window_of([(0, 0.0)] * count) for count in (0, 1, 39, 40, 1000)] == [1, 1, 1, 2, 50]


def drawn_points(picture: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]
        for points in re.findall(r"points='([^']*)'", picture)
    ]


def test_curves_share_one_frame() -> None:
    picture = svg(
        [([(0, 0.0), (100, 1.0)], "#36c"), ([(50, 2.0), (200, 0.5)], "#c63"), ([(7, 99.0)], "#000")]
    )
    assert drawn_points(picture) == [
        [(10, 210), (500, 110)],
        [(255, 10), (990, 160)],
    ]  # one point is no curve
    assert svg([([(7, 99.0)], "#000")]) == ""


def test_a_flat_curve_can_be_drawn() -> None:
    assert drawn_points(svg([([(1, 0.5), (2, 0.5)], "#36c")])) == [[(10, 210), (990, 210)]]


def test_a_long_curve_makes_no_long_page() -> None:
    points = [(number, 1.0 / number) for number in range(1, 50_001)]
    assert POINTS <= len(thinned(points)) <= POINTS + 1
    assert thinned(points)[-1] == points[-1]
    (drawn,) = drawn_points(svg([(points, "#36c")]))
    assert (min(x for x, _ in drawn), max(x for x, _ in drawn)) == (10, 990)
