"""What goes on in a run, as typed events; the progress bar, the JSONL log and TensorBoard are listeners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events; `kind` is the class name in the log."""

    def record(self) -> dict[str, Any]:
        """The event as plain data for JSON."""
        return {"kind": type(self).__name__, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class PhaseStarted(Event):
    """A named phase begins ("scan", "cache latents", "load denoiser", "train"…); `total` units, 0 if unknown."""

    phase: str
    total: int = 0
    unit: str = "items"


@dataclass(frozen=True, kw_only=True)
class PhaseProgress(Event):
    """`done` of the current phase's units are finished."""

    phase: str
    done: int


@dataclass(frozen=True, kw_only=True)
class PhaseFinished(Event):
    """The phase ended after `seconds`."""

    phase: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class StepFinished(Event):
    """One optimizer step: loss (weighted mean over the global batch), pre-clip gradient norm, learning rate."""

    step: int
    steps: int
    loss: float
    grad_norm: float
    learning_rate: float
    seconds: float
    images: int
    memory: int  # bytes: the device allocator's peak since the step before, or the process's resident set on the CPU
    skipped: int = 0  # steps that fp16's loss scaling skipped so far
    terms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepLeftOut(Event):
    """A step without an update, since its loss or gradient was not finite: of which items, and the count so far."""

    step: int
    message: str
    left_out: int


@dataclass(frozen=True, kw_only=True)
class BatchSplit(Event):
    """Memory ran out with `items` images of `size` ("1024x768") at once: from now on `most` of them."""

    step: int
    size: str
    items: int
    most: int


@dataclass(frozen=True, kw_only=True)
class ValidationFinished(Event):
    """Loss at fixed noise and times, on held-out images, a set of its own or a share of the training images."""

    step: int
    loss: float
    name: str = "validation"  # of the loss


@dataclass(frozen=True, kw_only=True)
class PreviewSaved(Event):
    """A preview image was painted."""

    step: int
    prompt: str
    path: str


@dataclass(frozen=True, kw_only=True)
class FileSaved(Event):
    """Something a user takes away, or a state, was written completely."""

    step: int
    what: str  # "adapter", "model", "state"
    path: str


@dataclass(frozen=True, kw_only=True)
class SettingChanged(Event):
    """After `step` something else counts than before: a key of the recipe, "data", or "model" (then fingerprints).

    `how`: insisted on when the run was resumed, or read again from the recipe's file.
    """

    step: int
    key: str
    old: Any
    new: Any
    how: Literal["forced", "live"]


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    """A line for the user and the report: `level` is "info" or "warning"."""

    message: str
    level: str = "info"


@dataclass(frozen=True, kw_only=True)
class LeftAtOnce(Event):
    """The process ends within this event, and nothing is cleaned up after it: listeners put back what they changed.

    `step`: so many steps are made, of which the newest state holds `saved`; None where none was made since the start.
    """

    step: int | None = None
    saved: int = 0


@dataclass(frozen=True, kw_only=True)
class RunEnded(Event):
    """The run is over: all steps are made, it was stopped and saved, or it failed for the reason in `message`."""

    how: Literal["finished", "stopped", "failed"]
    message: str = ""


Listener = Callable[[Event], None]


class Events:
    """Passes each event to all listeners, in the order they were added."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = list(listeners)

    def __call__(self, event: Event) -> None:
        """Tell every listener."""
        for listener in self.listeners:
            listener(event)

    def notice(self, message: str) -> None:
        """Tell the user something worth knowing."""
        self(Notice(message=message))

    def warn(self, message: str) -> None:
        """Tell the user something that may be wrong."""
        self(Notice(message=message, level="warning"))
