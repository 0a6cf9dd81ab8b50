"""A restart by torchrun: it begins again what failed, and what was stopped on request looks alike to it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from velatura.training.distribution.launch import Launch
from velatura.training.reporting.heartbeat import Status, read_status


def stopped_before(launch: Launch, status: Path) -> Status | None:
    """How a run stands that was stopped on request under this launcher; None where it is to go on, or to begin.

    `status`: the run's status.json. Every process of a restarted run finds the same.
    """
    if not launch.restarts:
        return None
    found = read_status(status)
    if found is None or found.state != "stopped":
        return None
    try:
        launched = psutil.Process(os.getppid()).create_time()
    except psutil.Error:
        return None
    return found if found.updated >= launched else None
