"""Curves drawn with letters, for terminals and logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from velatura.training.reporting.curves import Point, frame_of

WIDTH, HEIGHT = 72, 14  # of the field of letters
MEETING = "*"  # two curves in one place


def text_chart(
    curves: Mapping[str, Sequence[Point]], *, width: int = WIDTH, height: int = HEIGHT
) -> list[str]:
    """The lines of a chart; keys are the letters that the curves are drawn with. Nothing for fewer than two points.

    A place shows the mean of the values that fall on its column.
    """
    drawn = {letter: points for letter, points in curves.items() if points}
    if sum(map(len, drawn.values())) < 2:
        return []
    frame = frame_of(drawn.values())
    field = [[" "] * width for _ in range(height)]
    for letter, points in drawn.items():
        columns: dict[int, list[float]] = {}
        for step, loss in points:
            columns.setdefault(int(frame.across(step) * (width - 1)), []).append(loss)
        for column, losses in columns.items():
            row = height - 1 - round(frame.up(sum(losses) / len(losses)) * (height - 1))
            field[row][column] = letter if field[row][column] == " " else MEETING
    middle = height // 2
    rise = (frame.high - frame.low) / (height - 1)
    heights = {0: frame.high, middle: frame.high - middle * rise, height - 1: frame.low}
    labels = {row: f"{loss:.4g}" for row, loss in heights.items()}
    lines = [f"{labels.get(row, ''):>9} |{''.join(cells).rstrip()}" for row, cells in enumerate(field)]
    steps = f"{frame.left:,}".ljust(width - len(f"{frame.right:,}")) + f"{frame.right:,}"
    return [*lines, f"{'':>9} +{'-' * width}", f"{'step':>9}  {steps}"]
