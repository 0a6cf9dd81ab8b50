from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from velatura.doctor import computing


@pytest.mark.parametrize(
    ("units", "alone", "level"), [(True, True, "ok"), (False, True, "remark"), (False, False, "ok")]
)
def test_bf16_on_a_cpu(monkeypatch: pytest.MonkeyPatch, units: bool, alone: bool, level: str) -> None:
    monkeypatch.setattr("velatura.placement.device.has_bf16", lambda device: units)
    check = computing._cpu(SimpleNamespace(device=str), alone=alone)
    assert check.level == level
    assert ("no units for bf16" in check.found) is not units


@pytest.mark.parametrize(
    ("quota", "cores"),
    [(None, 8), ("max 100000\n", 8), ("250000 100000\n", 2.5), ("9900000 100000", 8), ("?", 8)],
)
def test_cores_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, cores: float
) -> None:
    monkeypatch.setattr(computing.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(computing, "CPU_QUOTA", tmp_path / "quota")
    if quota is not None:
        (tmp_path / "quota").write_text(quota)
    assert computing.usable_cores() == cores


@pytest.mark.parametrize(("threads", "level"), [(1, "remark"), (2, "ok"), (8, "ok"), (9, "remark")])
def test_threads(monkeypatch: pytest.MonkeyPatch, threads: int, level: str) -> None:
    monkeypatch.setattr(computing, "usable_cores", lambda: 8.0)
    assert computing._threads(threads).level == level


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "clang++" else None)
    monkeypatch.setattr(computing.sysconfig, "get_path", lambda name: str(Path(__file__).parent))
    check = computing._compiler(cuda=False)
    assert check.level == "remark"
    assert "C++ compiler" not in check.found
    assert "Python.h" in check.found
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no C++ compiler (g++, clang++, cl)" in computing._compiler(cuda=False).found
    monkeypatch.setattr(computing.importlib.util, "find_spec", lambda name: None)
    assert "no package triton" in computing._compiler(cuda=True).found


def test_a_torch_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (check,) = computing.computing()
    assert (check.name, check.level) == ("torch", "problem")


def test_this_machine() -> None:
    names = [check.name for check in computing.computing()]
    assert names[0] == "torch"
    assert names[-3:] == ["cpu", "threads", "compiler"]
