"""Freed memory stays with the process while it trains."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNTED = """
import resource
import torch
from velatura.placement.heap import freed_memory_kept

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        bytearray(64 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(4))
with freed_memory_kept(torch.device({device!r})):
    faults(2)  # the first ones grow the heap
    print(faults(4))
print(faults(4))
"""


def faults(device: str) -> list[int]:
    """Pages that the system hands out while 64 MiB are wanted, filled and freed 4 times: before, within, afterwards.

    64 MiB are 16384 pages of 4 KiB, or 32 large ones. In a process of its own, whose heap nothing else has shaped.
    """
    done = subprocess.run(
        [sys.executable, "-c", COUNTED.format(device=device)], capture_output=True, text=True, check=True
    )
    return [int(line) for line in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is asked")
def test_pages_are_handed_out_once() -> None:
    before, within, afterwards = faults("cpu")
    assert within < before / 8
    assert afterwards > before / 2


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is asked")
def test_nothing_is_done_for_another_device() -> None:
    before, within, _ = faults("cuda")
    assert within > before / 2
