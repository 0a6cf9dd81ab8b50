"""The table of devices."""

from __future__ import annotations

import pytest
import torch

from velatura.errors import RecipeError
from velatura.planning.devices import KNOWN, device_named


def test_this_machine_is_measured() -> None:
    device = device_named("cpu")
    assert device.here
    assert device.free is not None
    assert 0 < device.free <= device.memory
    assert 1e8 < device.flops(torch.float32) < 1e14
    assert device.occupied(100) == 100


def test_a_known_device_need_not_be_here() -> None:
    device = device_named("H200")
    assert not device.here
    assert device.budget == device.memory == int(139.8 * 2**30)
    assert device.flops(torch.bfloat16) == pytest.approx(0.8 * 989e12)
    assert device.dtype("auto") == torch.bfloat16
    assert device.occupied(0) > 0  # CUDA itself


def test_efficiency_can_be_given() -> None:
    assert device_named("a100-80", efficiency=0.5).flops(torch.bfloat16) == pytest.approx(156e12)


def test_an_unknown_device_is_refused_with_all_that_are_known() -> None:
    with pytest.raises(RecipeError, match="received the device '9999'") as refused:
        device_named("9999")
    assert all(name in str(refused.value) for name in KNOWN)


def test_names_of_devices_that_are_here_ignore_case_too() -> None:
    assert device_named("CPU").kind == "cpu"


def test_an_efficiency_for_a_device_whose_speed_is_measured_is_refused() -> None:
    with pytest.raises(RecipeError, match="--efficiency is for devices of the table"):
        device_named("cpu", efficiency=0.3)
