"""Which device and which number format a run computes in."""

from __future__ import annotations

import platform

import psutil
import torch

from velatura.errors import RecipeError

KINDS = ("cpu", "cuda", "mps")


def choose_device(name: str = "auto") -> torch.device:
    """'auto' takes CUDA, then MPS, then the CPU. Raises RecipeError for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        known = device.type in KINDS
    except (RuntimeError, AssertionError):
        known = False
    if not known:
        raise RecipeError(
            f"device '{name}' cannot be used here; allowed: auto, cpu, and where they are there cuda, cuda:N, mps"
        )
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """'auto' is bf16 where the hardware has it and fp32 where it would be emulated."""
    if precision == "auto":
        return torch.bfloat16 if has_bf16(device) else torch.float32
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products run in hardware on this device."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _cpu_has(
            "avx512_bf16", "amx_bf16", "bf16"
        )
    return False


def _cpu_has(*flags: str) -> bool:
    if platform.system() != "Linux":
        return platform.machine() == "arm64"
    with open("/proc/cpuinfo") as file:
        words = next((line.split() for line in file if line.lower().startswith(("flags", "features"))), [])
    return any(flag in words for flag in flags)


def forget_peak(device: torch.device) -> None:
    """Let `memory_used` tell of what comes from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory_used(device: torch.device) -> int:
    """Bytes: the CUDA allocator's peak since `forget_peak`, or the process's resident set elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)
