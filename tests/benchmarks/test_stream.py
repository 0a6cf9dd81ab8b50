"""The clock of benchmarks/stream.py: what it says where the answer is known, and the script as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from velatura.planning.devices import device_named

from .conftest import BENCHMARKS

WIDTH, BLOCKS, SIZE = 64, 3, 256  # of the toy


def predicted(*, share: float, trained: bool, link: float) -> tuple[float, float]:
    stream: Any = import_module("stream")
    device = replace(device_named("4090"), link=link, bandwidth=1e30)
    config = {**stream.dev(), **stream.TOY}
    found = stream.predicted(device, config, share=share, trained=trained, size=SIZE)
    return found.seconds, found.waited


def by_hand() -> tuple[float, float]:
    """Seconds of a forward and of a backward pass."""
    tokens, device = (SIZE // 16) ** 2 + 512, device_named("4090")
    linears, attention = 24 * WIDTH**2 * tokens / device.half, 4 * WIDTH * tokens**2 / device.attending
    return BLOCKS * (linears + attention), BLOCKS * (linears + 2 * attention)


def test_resident_is_the_arithmetic() -> None:
    forward, backward = by_hand()
    assert predicted(share=0.0, trained=False, link=1.0) == (pytest.approx(forward), 0)
    assert predicted(share=0.0, trained=True, link=1.0) == (pytest.approx(forward + backward), 0)


def test_over_a_fast_link_streaming_costs_nothing() -> None:
    forward, backward = by_hand()
    assert predicted(share=1.0, trained=False, link=1e30) == (pytest.approx(forward), pytest.approx(0))
    expected = pytest.approx(forward + backward)
    assert predicted(share=1.0, trained=True, link=1e30) == (expected, pytest.approx(0))


def test_over_a_slow_link_the_copies_are_the_time() -> None:
    """Of one sampling step, the blocks without their modulation; two of three are in slots that are filled again."""
    stream: Any = import_module("stream")
    seconds, waited = predicted(share=1.0, trained=False, link=1e3)
    model = stream.denoiser(
        {**stream.dev(), **stream.TOY}, stream.torch.bfloat16, stream.torch.device("meta")
    )
    family = import_module("velatura.families.flux").FluxFamily()
    early = {id(p) for layer in family.ahead(model) for p in layer.parameters()}
    bytes_ = sum(p.nbytes for block in family.blocks(model) for p in block.parameters() if id(p) not in early)
    assert seconds == pytest.approx(bytes_ / 1e3, rel=0.1)
    assert waited == pytest.approx(seconds, rel=1e-3)


@pytest.mark.slow
def test_the_script_runs(tmp_path: Path) -> None:
    file = tmp_path / "stream.json"
    command = [sys.executable, str(BENCHMARKS / "stream.py"), "--toy", "--device", "cpu", "--rounds", "1"]
    options = ["--shares", "0.5", "--predict", "4090", "--threads", "1", "--json", str(file)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    found = json.loads(file.read_text())
    names = [(row["what"], row["name"]) for row in found["measured"]]
    assert names == [
        ("training", "resident"),
        ("training", "resident, recomputed"),
        ("training", "50% streamed"),
        ("sampling", "resident"),
        ("sampling", "50% streamed"),
    ]
    assert [(row["what"], row["share"]) for row in found["predicted"]] == [
        ("training", 0.5),
        ("sampling", 0.5),
    ]
    assert "4090, training, 50% streamed" in done.stdout
