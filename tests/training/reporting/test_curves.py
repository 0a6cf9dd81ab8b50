from __future__ import annotations

from velatura.training.reporting.curves import POINTS, frame_of, running_means, thinned, window_of


def test_running_means_by_hand() -> None:
    points = [(1, 1.0), (2, 3.0), (3, 5.0), (4, 1.0)]
    assert running_means(points, 1) == points
    assert running_means(points, 2) == [(1, 1.0), (2, 2.0), (3, 4.0), (4, 3.0)]
    assert running_means(points, 3) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 3.0)]
    assert running_means([], 3) == []


def test_the_window_is_a_twentieth() -> None:
    assert [window_of([(0, 0.0)] * count) for count in (0, 1, 39, 40, 1000)] == [1, 1, 1, 2, 50]


def test_the_frame_holds_all_steps_and_the_later_losses() -> None:
    fall = [(step, 10.0 if step < 3 else 1.0 - step / 100) for step in range(1, 21)]
    frame = frame_of([fall, [(50, 0.5)]])
    assert (frame.left, frame.right, frame.low, frame.high) == (1, 50, 0.5, 0.97)
    assert (frame.across(50), frame.up(0.5), frame.up(10.0)) == (1.0, 0.0, 1.0)


def test_a_long_curve_makes_no_long_page() -> None:
    points = [(number, 1.0 / number) for number in range(1, 50_001)]
    assert POINTS <= len(thinned(points)) <= POINTS + 1
    assert thinned(points)[-1] == points[-1]


def test_a_small_fall_at_the_beginning_is_seen() -> None:
    fall = [(step, 1.0 - step / 100) for step in range(1, 51)]
    assert frame_of([fall]).high == 0.99
