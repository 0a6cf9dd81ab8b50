from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from velatura.doctor import examine
from velatura.doctor.check import Check

Run = Callable[..., Any]


def machine(monkeypatch: pytest.MonkeyPatch, *checks: Check) -> None:
    monkeypatch.setattr(examine, "GROUPS", (lambda: iter(checks),))


FINE = Check(name="python", found="3.11")
REMARK = Check(name="device", level="remark", found="no GPU", remedy="buy one")
PROBLEM = Check(name="runs", level="problem", found="read-only", remedy="output.folder")


@pytest.mark.parametrize(
    ("checks", "code"), [((FINE,), 0), ((FINE, REMARK), 0), ((FINE, REMARK, PROBLEM), 1)]
)
def test_only_problems_are_an_error(
    velatura: Run, monkeypatch: pytest.MonkeyPatch, checks: tuple[Check, ...], code: int
) -> None:
    machine(monkeypatch, *checks)
    assert velatura("doctor").code == code
    ended = velatura("doctor", "--json")
    assert ended.code == code
    facts = json.loads(ended.out)
    assert facts["healthy"] is (code == 0)
    assert [check["name"] for check in facts["checks"]] == [check.name for check in checks]


def test_what_is_said(velatura: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, FINE, REMARK, PROBLEM)
    assert velatura("doctor").out.splitlines() == [
        "ok      python: 3.11",
        "remark  device: no GPU",
        "          buy one",
        "problem runs: read-only",
        "          output.folder",
        "",
        "1 problem, 1 remark",
    ]


def test_a_check_that_fails_does_not_end_the_others(velatura: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Check]:
        yield FINE
        raise AttributeError("no such thing")

    monkeypatch.setattr(examine, "GROUPS", (broken, lambda: iter([REMARK])))
    ended = velatura("doctor")
    assert ended.code == 1
    assert "problem broken: could not be looked at: AttributeError: no such thing" in ended.out
    assert "remark  device" in ended.out
