"""Live bytes and work, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from velatura.placement.precision.int8_product import int8_product
from velatura.planning.devices import KNOWN
from velatura.planning.replay import VALUELESS
from velatura.planning.tracking import Bytes, Tracker

H200 = KNOWN["h200"]


def test_live_bytes_rise_and_fall_with_tensors() -> None:
    tracker = Tracker(H200)
    with VALUELESS, tracker:
        a = torch.zeros(100)
        b = a + 1  # 800 bytes
        view = b[:10]  # shares b's storage
        del a, b
        c = torch.zeros(25)
        del view
    (segment,) = tracker.segments
    assert (segment.peak.total, segment.end.total) == (800, 100)
    assert c.shape == (25,)


def test_known_tensors_keep_their_kind() -> None:
    tracker = Tracker(H200)
    with VALUELESS:
        weight = torch.zeros(4, 4)
        tracker.know([weight], "denoiser")
        tracker.know([weight.t()], "denoiser")
        with tracker:
            out = weight @ weight
            tracker.mark(("forward", 0))
    assert tracker.segments[-1].end == Bytes(denoiser=64, activations=64)
    assert [segment.label for segment in tracker.segments] == [("start", 0), ("forward", 0)]
    assert tracker.segments[0].work.flops == 2 * 4 * 4 * 4
    assert out.shape == (4, 4)


def test_values_that_are_read_are_made_up() -> None:
    with VALUELESS, Tracker(H200):
        values = torch.rand(3)
        assert float(values.sum()) == 1.0
        assert bool((values > 2).any())
        assert values.tolist() == [1.0, 1.0, 1.0]


def test_a_large_product_is_bound_by_arithmetic_and_a_sum_by_memory() -> None:
    with VALUELESS:
        a, b = (torch.zeros(8192, 8192, dtype=torch.bfloat16) for _ in range(2))
        product, total = Tracker(H200), Tracker(H200)
        with product:
            a @ b
        with total:
            a + b
    assert product.segments[0].work.bound_by_arithmetic > 0
    assert total.segments[0].work.bound_by_arithmetic == 0
    assert total.segments[0].work.seconds > 3 * 8192**2 * 2 / 4.8e12


def test_products_of_int8_are_those_of_the_device() -> None:
    """On CUDA one product at twice the speed of bf16; on the CPU in pieces that float32 sums exactly."""
    with VALUELESS:
        a, b = (torch.zeros(4096, 4096, dtype=torch.int8) for _ in range(2))
        there, here = Tracker(H200), Tracker(replace(H200, kind="cpu"))
        for tracker in (there, here):
            with tracker:
                int8_product(a, b)
    flops = 2 * 4096**3
    (of_gpu,), (of_cpu,) = there.segments, here.segments
    assert of_gpu.work.flops == of_cpu.work.flops == flops
    assert of_gpu.work.bound_by_arithmetic == pytest.approx(flops / H200.half / 2)
    assert of_cpu.work.bound_by_arithmetic > flops / H200.full


def test_a_kernel_holds_nothing_and_takes_its_traffic() -> None:
    with VALUELESS:
        weight, gradient = torch.zeros(10**6), torch.zeros(10**6)
        tracker = Tracker(H200)
        tracker.know([weight, gradient], "trained")
        with tracker, tracker.kernel(read=(gradient, None), written=(weight,)):
            weight.sub_(gradient.square().sqrt() * 3)
    (segment,) = tracker.segments
    assert segment.peak.total == 8 * 10**6
    assert segment.work.seconds == pytest.approx(max(12e6 / H200.bandwidth, H200.launch))
