"""The command as a user runs it: a process of its own, its exit code and what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def velatura(tmp_path: Path) -> Run:
    """Runs `velatura` with arguments in a temporary folder; fails the test on another exit code than `expect`."""

    def run(*arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "VELATURA_CACHE": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-m", "velatura.cli.app", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == expect, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done

    return run
