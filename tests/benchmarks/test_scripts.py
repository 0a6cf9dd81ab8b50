"""Scripts of benchmarks at their smallest sizes: they end well, and write the figures that they print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import BENCHMARKS

pytestmark = pytest.mark.slow


def figures(script: str, *given: str, folder: Path) -> tuple[Any, str]:
    """The JSON of a script that ends well, and its output."""
    file = folder / "made" / "figures.json"
    command = [sys.executable, str(BENCHMARKS / script), *given, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(file.read_text()), done.stdout


def test_step(tmp_path: Path) -> None:
    shape = ("--tokens", "256+128", "--rounds", "2", "--threads", "1", "--dtype", "fp32")
    found, out = figures("step.py", *shape, "--device", "cpu", "--no-compile", folder=tmp_path)
    assert found["dtype"] == "torch.float32"
    assert found["peak"] > 0
    plain, ours = found["rows"]
    assert (plain["name"], ours["name"]) == ("plain diffusers + peft", "velatura")
    assert plain["ratio"] == 1
    ratios = [own / other for own, other in zip(ours["seconds"], plain["seconds"], strict=True)]
    assert ours["ratio"] == pytest.approx(sum(ratios) / 2)
    assert all(len(row["seconds"]) == 2 and row["peak"] > row["before"] > 0 for row in (plain, ours))
    assert "256+128 tokens" in out


def test_startup(tmp_path: Path) -> None:
    found, out = figures("startup.py", "--repeats", "1", folder=tmp_path)
    (warm,) = found["warm"]
    assert found["cold"] > 0
    assert f"cold cache {found['cold']:.1f} s, warm cache {warm:.1f} s (median of 1)" in out


def test_memory(tmp_path: Path) -> None:
    found, out = figures("memory.py", "--blocks", "1", "1", folder=tmp_path)
    names = [row["name"] for row in found if row["model"] == "pocket"]
    assert {"LoRA", "LoRA, fp8 weights", "full", "full, bf16", "full, muon"} <= set(names)
    assert names == [row["name"] for row in found if row["model"] == "deeper"]
    assert all(row["ratio"] == row["planned"] / row["measured"] for row in found)
    assert all(0.95 < row["ratio"] < 1.05 for row in found if row["model"] == "pocket")
    assert all(f"{row['model']}, {row['name']}" in out for row in found)


def test_updates(tmp_path: Path) -> None:
    given = ("--device", "cpu", "--values", "5000", "--rounds", "1", "--threads", "1")
    found, out = figures("updates.py", *given, folder=tmp_path)
    kinds = (
        "adamw, bfloat16",
        "adamw8bit, float32",
        "adamw8bit, bfloat16",
        "adafactor, float32",
        "adafactor, bfloat16",
    )
    assert [row["name"] for row in found] == [
        "torch, adamw, float32",
        *(f"{kind}, {way}" for kind in kinds for way in ("plain", "compiled")),
    ]
    assert found[0]["ratio"] == 1
    assert all(row["ns"] == pytest.approx(row["ratio"] * found[0]["ns"]) for row in found)
    assert out.startswith("4.1e+03 values on cpu")
