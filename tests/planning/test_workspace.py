"""What operations take while they run, beside the account of torch's own allocator."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from velatura.planning.devices import Device, device_named
from velatura.planning.measuring import _highest
from velatura.planning.replay import VALUELESS
from velatura.planning.tracking import Tracker

Code = Callable[[], Tensor]
CPU = device_named("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def require_known(dtype: torch.dtype) -> None:
    if dtype != torch.float32 and CPU.bf16:
        pytest.skip("not known where 16 bits have hardware")


def planned(code: Code, device: Device) -> int:
    with VALUELESS, torch.no_grad(), Tracker(device) as tracker:
        code()
    return tracker.segments[0].peak.total


def measured(code: Code) -> int:
    with torch.no_grad():
        code()  # with what is only made once
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as done:
            code()
    return _highest(done)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("channels", [16, 3], ids=lambda count: f"{count} channels")
def test_convolutions(dtype: torch.dtype, kernel: int, channels: int) -> None:
    if dtype == torch.float16 or channels % 16:
        require_known(dtype)

    def convolve() -> Tensor:
        image = torch.zeros(2, 16, 64, 64, dtype=dtype)
        weight = torch.zeros(channels, 16, kernel, kernel, dtype=dtype)
        return F.conv2d(image, weight, padding="same")

    assert planned(convolve, CPU) == pytest.approx(measured(convolve), rel=0.02)
    size = torch.zeros((), dtype=dtype).itemsize
    plain = (2 * (16 + channels) * 64 * 64 + channels * 16 * kernel**2) * size
    assert planned(convolve, replace(CPU, kind="cuda")) == plain


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "product",
    [
        lambda a, b, bias: a @ b,
        lambda a, b, bias: F.linear(a, b.t(), bias),
        lambda a, b, bias: a.repeat(3, 1, 1) @ b.repeat(3, 1, 1),
        lambda a, b, bias: a[:1] @ b,
    ],
    ids=["mm", "addmm", "bmm", "one row"],
)
def test_products(dtype: torch.dtype, product: Callable[..., Tensor]) -> None:
    require_known(dtype)

    def multiply() -> Tensor:
        a, b, bias = torch.zeros(256, 64), torch.zeros(64, 320), torch.zeros(320)
        return product(a.to(dtype), b.to(dtype), bias.to(dtype))

    assert planned(multiply, CPU) == pytest.approx(measured(multiply), rel=0.02)
