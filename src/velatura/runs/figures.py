"""How far a run is, in words, for tables and pages."""

from __future__ import annotations

import time

from velatura.runs.overview import Overview
from velatura.training.reporting.figures import duration

TRAINING = "train"  # this phase needs no word
DAY = 86400


def state_text(facts: Overview) -> str:
    """`running`, or `running: previews` where another phase than training is in hand."""
    return f"{facts.state}: {facts.phase}" if facts.phase not in ("", TRAINING) else facts.state


def steps_text(facts: Overview) -> str:
    """`120/1,500`; empty before there is a step."""
    if facts.step is None:
        return ""
    return f"{facts.step:,}" if facts.steps is None else f"{facts.step:,}/{facts.steps:,}"


def age(moment: float | None) -> str:
    """How long ago: `42 s ago`, `3:07 ago`, `5 d ago`."""
    if moment is None:
        return ""
    seconds = max(0.0, time.time() - moment)
    return f"{seconds / DAY:.0f} d ago" if seconds >= 2 * DAY else f"{duration(seconds)} ago"
