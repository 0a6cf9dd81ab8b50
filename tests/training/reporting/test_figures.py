from __future__ import annotations

import pytest

from velatura.events import StepFinished
from velatura.training.reporting.figures import PhaseFigures, Smoothed, TrainingFigures, duration, speed


def step(number: int, loss: float = 0.5, seconds: float = 0.5, skipped: int = 0) -> StepFinished:
    return StepFinished(
        step=number, steps=100, loss=loss, grad_norm=1.0, learning_rate=1e-4, seconds=seconds, images=4,
        memory=3 * 2**29, skipped=skipped,
    )  # fmt: skip


def test_smoothed_starts_at_the_first_value_and_forgets() -> None:
    mean = Smoothed(decay=0.9)
    assert mean.value == 0
    mean.add(5.0)
    assert mean.value == pytest.approx(5.0)
    mean.add(1.0)  # weights 0.09 and 0.1 over 0.19
    assert mean.value == pytest.approx((0.09 * 5 + 0.1 * 1) / 0.19)
    for _ in range(200):
        mean.add(2.0)
    assert mean.value == pytest.approx(2.0)


def test_the_first_step_does_not_count_for_the_speed() -> None:
    figures = TrainingFigures()
    assert figures.parts() == []
    figures.add(step(1, seconds=40.0))
    assert figures.seconds_left is None
    assert figures.images_per_second == pytest.approx(0.1)  # better than nothing
    figures.add(step(2))
    figures.add(step(3))
    assert figures.images_per_second == pytest.approx(8.0)
    assert figures.seconds_left == pytest.approx(97 * 0.5)
    assert figures.parts() == ["loss 0.5000", "8.00 img/s", "48 s left", "1.5 GiB", "lr 0.0001"]


def test_skipped_steps_are_shown() -> None:
    figures = TrainingFigures()
    figures.add(step(1, skipped=2))
    assert figures.parts()[-1] == "2 skipped"


def test_phase() -> None:
    phase = PhaseFigures(phase="scan", total=100, unit="images", started=10.0)
    assert phase.parts(10.0) == ["0/100 images"]
    phase.done = 25
    assert phase.parts(15.0) == ["25/100 images", "5.00 images/s", "15 s left"]
    phase.done = 100
    assert phase.parts(20.0) == ["100/100 images", "10.0 images/s"]
    unknown = PhaseFigures(phase="load", total=0, unit="items", started=0.0)
    assert unknown.parts(0.5) == []
    assert unknown.parts(3.0) == ["3 s"]  # a sign of life
    unknown.done = 1
    assert unknown.parts(0.0) == ["1 item"]
    assert PhaseFigures(phase="scan", total=1, unit="images", started=0.0).parts(0.0) == ["0/1 image"]


@pytest.mark.parametrize(
    ("rate", "text"), [(0.1234, "0.123"), (1.0, "1.00"), (45.67, "45.7"), (123.4, "123"), (12345.6, "12,346")]
)
def test_speed(rate: float, text: str) -> None:
    assert speed(rate) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1:00"), (187, "3:07"), (3723, "1:02:03")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
