from __future__ import annotations

from velatura.runs.text_chart import text_chart


def test_a_falling_line_and_a_flat_one() -> None:
    falling = [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0), (5, 0.0)]
    flat = [(1, 2.0), (3, 2.0), (4, 2.0)]
    assert text_chart({"A": falling, "B": flat, "C": []}, width=5, height=5) == [
        "        4 |A",
        "          | A",
        "        2 |B *B",
        "          |   A",
        "        0 |    A",
        "          +-----",
        "     step  1   5",
    ]


def test_a_place_shows_the_mean_of_its_column() -> None:
    chart = text_chart({"o": [(0, 0.0), (1, 4.0), (100, 2.0)]}, width=2, height=3)
    assert [line[11:] for line in chart[:3]] == ["", "oo", ""]


def test_one_step_is_no_curve() -> None:
    assert text_chart({"o": [(1, 0.5)]}) == []
    assert text_chart({"o": []}) == []
    assert text_chart({}) == []


def test_a_loss_that_does_not_change() -> None:
    chart = text_chart({"o": [(1, 0.5), (1000, 0.5)]}, width=10, height=3)
    assert chart[2] == "      0.5 |o        o"
    assert chart[4] == "     step  1    1,000"
