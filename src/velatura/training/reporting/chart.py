"""Curves of losses as an SVG with axes, and the table beside it that says which is which."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from velatura.training.reporting.curves import Frame, Point, frame_of, thinned

Curve = tuple[str, Sequence[Point]]  # its name, and its points, which may be none

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b04a8f", "#a87800", "#3aa0d8", "#7d3c98", "#555555")
WIDTH, HEIGHT = 1000, 320
LEFT, RIGHT, TOP, BOTTOM = 76, 14, 12, 50  # margins: numbers and titles of the axes stand in them
TICKS = 6  # of an axis, at most
DOTS = 30  # curves of up to so many points show each of them


def chart(curves: Sequence[Curve], title: str = "loss") -> str:
    """A picture of the curves, and their legend; nothing where no curve has a point, no picture for single points.

    A curve keeps its colour by its place, also where one before it is empty. `title`: of the upright axis.
    """
    drawn = [(points, COLOURS[i % len(COLOURS)]) for i, (_, points) in enumerate(curves) if points]
    if not drawn:
        return ""
    picture = _picture(drawn, title) if any(len(points) > 1 for points, _ in drawn) else ""
    return picture + _legend(curves)


def _picture(drawn: Sequence[tuple[Sequence[Point], str]], title: str) -> str:
    frame = frame_of(points for points, _ in drawn)
    lines = "".join(_curve(points, frame, colour) for points, colour in drawn)
    words = html.escape(title, quote=True)
    picture = (
        f"<div class='scroll'><svg class='chart' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' "
        f"aria-label='{words} by step'>{_axes(frame, words)}{lines}</svg></div>"
    )
    top = max(loss for points, _ in drawn for _, loss in points)
    cut = f"What lies above {frame.high:.4g} (up to {top:.4g}) is drawn at the upper edge."
    return picture + f"<p class='aside'>{cut}</p>" * (top > frame.high)


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """The round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten, at most TICKS of them.

    `whole`: no fractions. One number where both ends are the same.
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / TICKS))
    unit = max(power, 1.0) if whole else power
    while True:
        for step in (unit, 2 * unit, 5 * unit):
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first < TICKS:
                return [number * step for number in range(first, last + 1)]
        unit *= 10


def _axes(frame: Frame, title: str) -> str:
    parts = []
    losses = ticks(frame.low, frame.high)
    decimals = _decimals(losses)
    for loss in losses:
        y = _y(frame, loss)
        parts.append(f"<path class='grid' d='M{LEFT} {y:.1f}H{WIDTH - RIGHT}'/>")
        parts.append(f"<text x='{LEFT - 8}' y='{y + 5:.1f}' text-anchor='end'>{loss:.{decimals}f}</text>")
    for step in map(round, ticks(frame.left, frame.right, whole=True)):
        x = _x(frame, step)
        parts.append(f"<path class='axis' d='M{x:.1f} {HEIGHT - BOTTOM}v6'/>")
        parts.append(f"<text x='{x:.1f}' y='{HEIGHT - BOTTOM + 21}' text-anchor='middle'>{step:,}</text>")
    middle = (HEIGHT - BOTTOM + TOP) / 2
    return (
        f"{''.join(parts)}<path class='axis' d='M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}'/>"
        f"<text x='{(WIDTH + LEFT - RIGHT) / 2}' y='{HEIGHT - 8}' text-anchor='middle'>step</text>"
        f"<text transform='translate(15 {middle}) rotate(-90)' text-anchor='middle'>{title}</text>"
    )


def _decimals(numbers: Sequence[float]) -> int:
    """How many the numbers need to be told apart."""
    if len(numbers) < 2:
        return 4
    return max(0, -math.floor(math.log10(numbers[1] - numbers[0]) + 1e-9))


def _curve(points: Sequence[Point], frame: Frame, colour: str) -> str:
    places = [(step, loss, _x(frame, step), _y(frame, loss)) for step, loss in thinned(points)]
    line = " ".join(f"{x:.1f},{y:.1f}" for _, _, x, y in places)
    drawn = f"<polyline fill='none' stroke='{colour}' stroke-width='2' points='{line}'/>"
    if len(places) > DOTS:
        return drawn
    return drawn + "".join(
        f"<circle fill='{colour}' cx='{x:.1f}' cy='{y:.1f}' r='3.5'><title>step {step:,}: {loss:.4f}</title></circle>"
        for step, loss, x, y in places
    )


def _x(frame: Frame, step: float) -> float:
    return LEFT + frame.across(step) * (WIDTH - LEFT - RIGHT)


def _y(frame: Frame, loss: float) -> float:
    return HEIGHT - BOTTOM - frame.up(loss) * (HEIGHT - TOP - BOTTOM)


def _legend(curves: Sequence[Curve]) -> str:
    """What each curve is called, where it begins and ends, and where it is lowest."""
    rows = []
    for number, (name, points) in enumerate(curves):
        if points:
            step, lowest = min(points, key=lambda point: point[1])
            figures = (f"{points[0][1]:.4f}", f"{points[-1][1]:.4f}", f"{lowest:.4f} (step {step:,})")
            mark = f"<span class='mark' style='background:{COLOURS[number % len(COLOURS)]}'></span>"
            cells = "".join(f"<td>{figure}</td>" for figure in figures)
            rows.append(f"<tr><td>{mark}{html.escape(name)}</td>{cells}</tr>")
    head = "<tr><th>curve</th><th>first</th><th>last</th><th>lowest</th></tr>"
    return f"<div class='scroll'><table class='legend'>{head}{''.join(rows)}</table></div>"
