"""Runs `cases.py` in a process of its own: the device stays registered, and replaces how `tensor.data` is set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .device import missing

CASES = Path(__file__).with_name("cases.py")


@pytest.mark.slow
def test_on_a_second_device() -> None:
    if found := missing():
        pytest.skip(found)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
        str(CASES),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CASES.parents[2])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
