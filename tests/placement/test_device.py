from __future__ import annotations

import mmap

import pytest
import torch

from velatura.errors import RecipeError
from velatura.placement import device as module
from velatura.placement.device import choose_device, choose_dtype, has_bf16, memory_used

CPU = torch.device("cpu")


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device().type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device().type == "cuda"


@pytest.mark.parametrize("name", ["cuda:77", "gpu", "meta", "", "cpu:x"])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(RecipeError, match="cannot be used here; allowed: auto, cpu"):
        choose_device(name)


def test_auto_precision_is_bf16_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(module, "has_bf16", lambda device, native=native: native)
        assert choose_dtype("auto", CPU) == expected
    assert choose_dtype("fp16", CPU) == torch.float16


def test_older_gpus_emulate_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, native in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert has_bf16(torch.device("cuda")) == native


def test_memory_is_the_resident_set_on_the_cpu() -> None:
    before = memory_used(CPU)
    size, part = 256 * 2**20, b"1" * 2**20
    with mmap.mmap(-1, size) as held:  # new pages: what was freed before may be used again by an allocator
        for _ in range(size // len(part)):
            held.write(part)
        assert memory_used(CPU) - before > 0.9 * size
