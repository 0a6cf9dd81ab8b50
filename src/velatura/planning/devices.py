"""What devices have and can do: their memory and speeds, for plans of machines that are not at hand.

Peaks are dense ones with float32 accumulation, from NVIDIA's data sheets and architecture white papers: H100/H200,
A100, L4, Ada (GeForce 40) and Ampere GA102 (GeForce 30). GeForce cards run bf16 with float32 accumulation at half of
their advertised tensor rate. What programs reach of them is `EFFICIENCY`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from velatura.errors import RecipeError
from velatura.placement.device import choose_device, has_bf16
from velatura.placement.machine import machine_memory

GIB = 2**30
EFFICIENCY = 0.8  # of peak arithmetic: large bf16 products reach 770 to 800 of the 989 TFLOP/s of an H200
BANDWIDTH_EFFICIENCY = 0.8  # of peak bandwidth, in element-wise kernels
LINKS = {4: 25e9, 5: 50e9}  # bytes/s that copies from pinned memory reach, by generation of PCIe at 16 lanes
LAUNCH = 6e-6  # seconds from one kernel to the next where the program, not the device, sets the pace
WARM = 0.1  # seconds of work after which a GPU runs at its speed
CONTEXT = int(0.6 * GIB)  # CUDA's context and libraries, on the device and outside of what torch counts
SLACK = 1.03  # of the CUDA allocator: what it holds over what is in use


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device as plans see it: memory in bytes, effective speeds in FLOP/s and bytes/s."""

    name: str
    kind: str  # "cuda", "cpu", "mps"
    memory: int
    half: float  # of bf16 and fp16 products
    full: float  # of fp32 products
    attending: float  # of attention's
    bandwidth: float
    launch: float
    link: float  # from the machine's memory to the device
    efficiency: float  # the share of the peak that the speeds above already are; 1 where they were measured
    bf16: bool = True
    here: bool = False
    free: int | None = None  # bytes, where it can be asked
    host: int | None = None  # bytes of the machine's own memory beside the device's, where they are known

    def flops(self, dtype: torch.dtype) -> float:
        """Effective speed of products in a dtype; int8 tensor cores are at least twice as fast as those of bf16."""
        if dtype == torch.int8 and self.kind == "cuda":
            return 2 * self.half
        return self.half if dtype.itemsize <= 2 else self.full

    def attends(self, dtype: torch.dtype) -> float:
        """Effective speed of attention in a dtype."""
        wide = self.kind == "cuda" and dtype.itemsize > 2
        return min(self.attending, self.full) if wide else self.attending

    def lasting(self, *needs: float) -> float:
        """Seconds of an operation that needs so many for its arithmetic, and so many for what it reads and writes.

        A GPU is told of the next one meanwhile, so that the telling counts where it takes longer.
        """
        return max(*needs, self.launch) if self.kind == "cuda" else max(0.0, *needs) + self.launch

    def dtype(self, precision: str) -> torch.dtype:
        """What `training.precision` means on this device."""
        if precision == "auto":
            return torch.bfloat16 if self.bf16 else torch.float32
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]

    @property
    def budget(self) -> int:
        """Bytes that a plan may use where the user names no number: what is free, or all of a device elsewhere."""
        return self.memory if self.free is None else self.free

    def occupied(self, peak: int) -> int:
        """Bytes of its memory that a peak of live tensors takes."""
        return int(peak * SLACK) + CONTEXT if self.kind == "cuda" else peak


def _gpu(
    name: str,
    memory: float,
    bf16: float,
    fp32: float,
    bandwidth: float,
    *,
    pcie: int = 4,
    lanes: int = 16,
    attention: float = 0.75,
) -> Device:
    """`memory` in GiB, as torch reports it; speeds in TFLOP/s, `bandwidth` in GB/s: peaks of the data sheet.

    `attention`: what its kernels reach of what products reach. FlashAttention 2, torch's own, was made for Ampere, and
    reaches some 350 TFLOP/s of Hopper's 989.
    """
    return Device(
        name=name,
        kind="cuda",
        memory=int(memory * GIB),
        half=bf16 * 1e12 * EFFICIENCY,
        full=fp32 * 1e12 * EFFICIENCY,
        attending=bf16 * 1e12 * EFFICIENCY * attention,
        bandwidth=bandwidth * 1e9 * BANDWIDTH_EFFICIENCY,
        launch=LAUNCH,
        link=LINKS[pcie] * lanes / 16,
        efficiency=EFFICIENCY,
    )


KNOWN = {
    device.name: device
    for device in (
        _gpu("h200", 139.8, 989, 67, 4800, pcie=5, attention=0.45),
        _gpu("h100", 79.1, 989, 67, 3350, pcie=5, attention=0.45),
        _gpu("a100-80", 79.1, 312, 19.5, 2039),
        _gpu("a100-40", 39.4, 312, 19.5, 1555),
        _gpu("l40s", 44.4, 362, 91.6, 864),
        _gpu("a6000", 47.4, 155, 38.7, 768),
        _gpu("5090", 31.4, 209.5, 104.8, 1792, pcie=5),
        _gpu("4090", 23.6, 165.2, 82.6, 1008),
        _gpu("3090", 23.6, 71, 35.6, 936),
        _gpu("l4", 22.0, 121, 30.3, 300),
        _gpu("4080", 15.7, 97.5, 48.7, 717),
        _gpu("4060-ti-16", 15.6, 44, 22, 288, lanes=8),
        _gpu("3080-10", 9.6, 59.5, 29.8, 760),
        _gpu("3060-12", 11.7, 25.5, 12.7, 360),
        _gpu("4060", 7.6, 30, 15, 272, lanes=8),
    )
}


def device_named(name: str, *, efficiency: float | None = None) -> Device:
    """A device of the table, or `auto`, `cpu`, `cuda`, `cuda:1`, `mps`: those of this machine.

    `efficiency`: the share of the peak that products reach, for devices of the table. Raises RecipeError.
    """
    known = KNOWN.get(name.lower())
    if known is not None:
        return known if efficiency is None else _reaching(known, efficiency)
    try:
        here = choose_device(name.lower())
    except RecipeError:
        raise RecipeError(
            f"received the device '{name}', which is not here and is no known one; allowed: auto, cpu, cuda, cuda:N, "
            f"mps where they are here, and {', '.join(KNOWN)}. For another card give one that is like it, and its "
            "memory with --memory."
        ) from None
    if efficiency is not None:
        raise RecipeError(
            f"--efficiency is for devices of the table, and '{name}' is here, where speeds are measured: leave it out"
        )
    return device_here(here)


def with_host(device: Device, memory: int) -> Device:
    """A device in a machine with so many bytes of memory. Raises RecipeError for the CPU, whose memory that is."""
    if device.kind == "cpu":
        raise RecipeError(
            "--host is the machine's memory beside a GPU, and this plan is for the CPU: give --memory"
        )
    return replace(device, host=memory)


def _reaching(device: Device, efficiency: float) -> Device:
    factor = efficiency / device.efficiency
    return replace(
        device,
        half=device.half * factor,
        full=device.full * factor,
        attending=device.attending * factor,
        efficiency=efficiency,
    )


def device_here(device: torch.device) -> Device:
    """A device of this machine, its speeds measured: in a fraction of a second, on a GPU in some seconds at most."""
    half, full = (_products(device, dtype) for dtype in (torch.bfloat16, torch.float32))
    narrow = torch.bfloat16 if has_bf16(device) else torch.float16
    attending = _attending(device, narrow if device.type == "cuda" else torch.float32)
    machine = machine_memory()
    memory, free, host = machine.total, machine.free, None
    name, bandwidth, link = str(device), _copying(device), LINKS[4]
    if device.type == "cuda":
        link = _uploading(device)
        torch.cuda.empty_cache()
        free, memory = torch.cuda.mem_get_info(device)
        free = min(memory, free + CONTEXT)  # there is one by now, and what is planned counts it
        host = machine.total
        name = torch.cuda.get_device_name(device)
    return Device(
        name=name,
        kind=device.type,
        memory=memory,
        free=free,
        half=half,
        full=full,
        attending=attending,
        bandwidth=bandwidth,
        launch=LAUNCH,
        link=link,
        efficiency=1.0,
        bf16=has_bf16(device),
        here=True,
        host=host,
    )


def _products(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a product of square matrices."""
    edge = 4096 if device.type == "cuda" else 512
    a = torch.ones(edge, edge, device=device, dtype=dtype)
    return 2 * edge**3 / _seconds(lambda: a @ a, device)


def _attending(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of attention, forwards."""
    heads, length, size = (24, 4096, 128) if device.type == "cuda" else (8, 512, 64)
    x = torch.ones(1, heads, length, size, device=device, dtype=dtype)
    return 4 * heads * length**2 * size / _seconds(lambda: F.scaled_dot_product_attention(x, x, x), device)


def _copying(device: torch.device) -> float:
    """Bytes per second that are read and written in a copy."""
    a = torch.ones((256 if device.type == "cuda" else 16) * 2**20, device=device, dtype=torch.uint8)
    return 2 * a.nbytes / _seconds(a.clone, device)


def _uploading(device: torch.device) -> float:
    """Bytes per second from the machine's memory, locked, to a GPU."""
    source = torch.empty(2**27, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=device)
    return source.nbytes / _seconds(lambda: target.copy_(source, non_blocking=True), device)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one of several runs, the fastest time; on a GPU, whose clocks rise with work, of many that are enqueued."""
    if device.type == "cpu":
        return min(_enqueued(run, device, 1) for _ in range(4))
    _enqueued(run, device, 1)  # loads its kernels
    count = 1
    while (each := _enqueued(run, device, count)) * count < WARM:
        count *= 2
    return min(each, *(_enqueued(run, device, count) for _ in range(2)))


def _enqueued(run: Callable[[], object], device: torch.device, count: int) -> float:
    """Seconds of one of so many runs in a row."""
    started = time.perf_counter()
    for _ in range(count):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return max(time.perf_counter() - started, 1e-9) / count
