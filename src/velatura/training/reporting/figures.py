"""The figures that a progress display shows: smoothed, and written as a person reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

from velatura.events import StepFinished
from velatura.plural import counted

GIB = 2**30


@dataclass(kw_only=True)
class Smoothed:
    """An exponential mean that starts right: the first values are not pulled towards zero."""

    decay: float
    total: float = 0.0
    weight: float = 0.0

    def add(self, value: float) -> None:
        """Take in one more value."""
        self.total = self.decay * self.total + (1 - self.decay) * value
        self.weight = self.decay * self.weight + (1 - self.decay)

    @property
    def value(self) -> float:
        """The mean so far; 0 before the first value."""
        return self.total / self.weight if self.weight else 0.0


@dataclass(kw_only=True)
class TrainingFigures:
    """What the steps so far say: loss over about 50 steps, speed over about 20."""

    last: StepFinished | None = None
    loss: Smoothed = field(default_factory=lambda: Smoothed(decay=0.98))
    seconds: Smoothed = field(default_factory=lambda: Smoothed(decay=0.95))
    images: Smoothed = field(default_factory=lambda: Smoothed(decay=0.95))

    def add(self, event: StepFinished) -> None:
        """Take in one more step. The first step, which may compile, does not count for the speed."""
        if self.last is not None:
            self.seconds.add(event.seconds)
            self.images.add(event.images)
        self.last = event
        self.loss.add(event.loss)

    @property
    def images_per_second(self) -> float:
        """Speed; of the only step when there is one."""
        if self.last is None:
            return 0.0
        seconds, images = self.seconds.value or self.last.seconds, self.images.value or self.last.images
        return images / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Until the last step; unknown before there is a speed."""
        if self.last is None or not self.seconds.weight:
            return None
        return (self.last.steps - self.last.step) * self.seconds.value

    def parts(self) -> list[str]:
        """Loss, speed, time left, memory and learning rate, as short texts."""
        if self.last is None:
            return []
        left = self.seconds_left
        return [
            f"loss {self.loss.value:.4f}",
            f"{speed(self.images_per_second)} img/s",
            *([] if left is None else [f"{duration(left)} left"]),
            f"{self.last.memory / GIB:.1f} GiB",
            f"lr {self.last.learning_rate:.2g}",
            *([f"{self.last.skipped} skipped"] if self.last.skipped else []),
        ]


@dataclass(kw_only=True)
class PhaseFigures:
    """How far a phase is."""

    phase: str
    total: int
    unit: str
    started: float  # seconds of a monotonic clock
    done: int = 0

    def parts(self, now: float) -> list[str]:
        """Count, speed and time left, as short texts."""
        elapsed = now - self.started
        one = self.unit.removesuffix("s")
        if not self.done and not self.total:
            return [duration(elapsed)] if elapsed >= 1 else []
        count = f"{self.done:,}/{counted(self.total, one)}" if self.total else counted(self.done, one)
        if not self.done or elapsed <= 0:
            return [count]
        rate = self.done / elapsed
        left = [f"{duration((self.total - self.done) / rate)} left"] if self.total > self.done else []
        return [count, f"{speed(rate)} {self.unit}/s", *left]


def speed(rate: float) -> str:
    """Three digits: `0.123`, `4.56`, `78.9`, `1,234`."""
    decimals = 3 if rate < 1 else 2 if rate < 10 else 1 if rate < 100 else 0
    return f"{rate:,.{decimals}f}"


def duration(seconds: float) -> str:
    """`42 s`, `3:07`, `1:02:03`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
