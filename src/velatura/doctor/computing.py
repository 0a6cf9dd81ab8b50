"""What computes here: torch, its devices, the processor, threads, a compiler."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from velatura.doctor.check import Check
from velatura.doctor.devices import devices
from velatura.plural import counted

CPU_FACTS = Path("/proc/cpuinfo")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "<microseconds> <of so many>", or "max …"


def computing() -> Iterator[Check]:
    """Checks of torch and of all that it computes with."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check(
            name="torch",
            level="problem",
            found=f"cannot be imported: {error}",
            remedy="install it anew as https://pytorch.org/get-started/locally says for this machine",
        )
        return
    cuda, rocm = torch.version.cuda, torch.version.hip
    build = f"CUDA {cuda}" if cuda else f"ROCm {rocm}" if rocm else "no CUDA"
    yield Check(name="torch", found=f"{torch.__version__}, {build}")
    yield from devices(torch)
    yield _cpu(torch, alone=not torch.cuda.is_available() and not torch.backends.mps.is_available())
    yield _threads(torch.get_num_threads())
    yield _compiler(cuda=torch.cuda.is_available())


def _cpu(torch: ModuleType, *, alone: bool) -> Check:
    from velatura.placement.device import has_bf16

    name = _cpu_name()
    if has_bf16(torch.device("cpu")):
        return Check(name="cpu", found=f"{name}, units for bf16")
    return Check(
        name="cpu",
        level="remark" if alone else "ok",
        found=f"{name}, no units for bf16 (avx512_bf16, amx), which is some 50 times slower here than fp32",
        remedy='leave precision = "auto", which takes fp32' if alone else "",
    )


def _cpu_name() -> str:
    if CPU_FACTS.exists():
        facts = CPU_FACTS.read_text(encoding="utf-8", errors="replace")
        named = (
            line.partition(":")[2].strip() for line in facts.splitlines() if line.startswith("model name")
        )
        return next(named, platform.machine())
    return platform.processor() or platform.machine()


def _threads(threads: int) -> Check:
    cores = usable_cores()
    found = f"torch computes with {counted(threads, 'thread')} on {counted(cores, 'core')} that may be used"
    if threads > cores:
        remedy = f"set OMP_NUM_THREADS={cores:g}: more threads than cores hinder each other"
        return Check(name="threads", level="remark", found=found, remedy=remedy)
    if threads < cores / 4:
        remedy = "unset OMP_NUM_THREADS, unless other work needs the cores"
        return Check(name="threads", level="remark", found=found, remedy=remedy)
    return Check(name="threads", found=found)


def usable_cores() -> float:
    """Cores that this process may use: what its affinity and its container leave of them."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    try:
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # no container, or no limit: "max"
        return cores


def _compiler(*, cuda: bool) -> Check:
    wanted = ("g++", "clang++", "cl") if not cuda else ("gcc", "cc", "clang", "cl")
    compiler = next(filter(None, map(shutil.which, wanted)), None)
    header = Path(sysconfig.get_path("include")) / "Python.h"
    missing = [] if compiler else [f"no C++ compiler ({', '.join(wanted)})"]
    missing += [] if header.exists() else [f"no {header}"]
    missing += ["no package triton"] if cuda and importlib.util.find_spec("triton") is None else []
    if not missing:
        return Check(name="compiler", found=f"{compiler}, so torch.compile can be used")
    return Check(
        name="compiler",
        level="remark",
        found=f"torch.compile cannot be used: {', '.join(missing)}",
        remedy="install g++ and Python's headers (Debian: g++ python3-dev; Windows: triton-windows), or set "
        "training.compile = false",
    )
