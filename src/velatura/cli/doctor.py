"""`velatura doctor`: whether this machine is fit to train and to paint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from velatura.cli.console import echo
from velatura.plural import counted

if TYPE_CHECKING:
    from velatura.doctor.check import Check

PROBLEMS = 1


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Look at Python, packages, devices, memory and disks, and say what to do where something is wrong.

    Exit codes: 0 there is no problem, perhaps a remark; 1 there is one.
    """
    from dataclasses import asdict

    from velatura.doctor.examine import examine

    checks = []
    for check in examine():
        checks.append(check)
        if not as_json:
            _print(check)
    problems = sum(check.level == "problem" for check in checks)
    remarks = sum(check.level == "remark" for check in checks)
    if as_json:
        echo(json.dumps({"healthy": not problems, "checks": list(map(asdict, checks))}, indent=2))
    else:
        echo(f"\n{counted(problems, 'problem')}, {counted(remarks, 'remark')}")
    if problems:
        raise typer.Exit(PROBLEMS)


def _print(check: Check) -> None:
    colours = {"ok": typer.colors.GREEN, "remark": typer.colors.YELLOW, "problem": typer.colors.RED}
    echo(f"{check.level:8}", colour=colours[check.level], nl=False)
    echo(f"{check.name}: {check.found}")
    if check.remedy:
        echo(f"{'':8}  {check.remedy}")
