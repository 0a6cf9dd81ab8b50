"""The GPUs that torch can use, and the number formats that they have units for."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from velatura.data.caches.cache_place import readable
from velatura.doctor.check import Check

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
FORMATS = {
    "fp16": (7, 0),
    "bf16": (8, 0),
    "fp8": (8, 9),
}  # and the CUDA capability from which a GPU has units


def devices(torch: ModuleType) -> Iterator[Check]:
    """Checks of the GPUs, or of why there is none; `torch` is the module."""
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            yield _gpu(torch, number)
        if platform.system() == "Windows":
            yield Check(
                name="driver",
                level="remark",
                found="on Windows the driver moves to main memory what does not fit on the GPU, without a word, and "
                "steps take 10 to 100 times as long",
                remedy="NVIDIA Control Panel, 3D settings: CUDA - Sysmem Fallback Policy: Prefer No Sysmem Fallback",
            )
    elif torch.backends.mps.is_available():
        yield Check(name="device", found='an Apple GPU (mps); precision = "auto" takes fp32 there')
    elif _nvidia_is_there():
        yield _unusable_gpu(torch)
    else:
        yield Check(
            name="device",
            level="remark",
            found="no GPU: all is computed on the CPU",
            remedy="enough for the pocket models; training FLUX.1 or Stable Diffusion needs a GPU",
        )


def _gpu(torch: ModuleType, number: int) -> Check:
    name = f"cuda:{number}"
    capability = torch.cuda.get_device_capability(number)
    free, total = torch.cuda.mem_get_info(number)
    version = ".".join(map(str, capability))
    found = f"{torch.cuda.get_device_name(number)}, capability {version}{_driver()}"
    found += f", {readable(free)} of {readable(total)} free"
    if not runs_on(torch.cuda.get_arch_list(), capability):
        return Check(
            name=name,
            level="problem",
            found=f"{found}; this torch was not built for it, but for {', '.join(torch.cuda.get_arch_list())}",
            remedy="install a build of torch for this GPU: https://pytorch.org/get-started/locally",
        )
    if torch.version.hip is None:
        there = [kind for kind, least in FORMATS.items() if capability >= least]
        found += f", units for {', '.join(there) or 'fp32 only'}"
        if "bf16" not in there:
            return Check(
                name=name,
                level="remark",
                found=found,
                remedy='precision = "auto" takes fp32 here; precision = "fp16" is faster and takes half the memory',
            )
    if free < 0.75 * total:
        return Check(name=name, level="remark", found=found, remedy="see with nvidia-smi who holds the rest")
    return Check(name=name, found=found)


def runs_on(architectures: list[str], capability: tuple[int, int]) -> bool:
    """Whether a build has code for a GPU: of its generation and not newer, or for any newer one (compute_*)."""
    for name in architectures:
        kind, _, digits = name.partition("_")
        digits = digits.rstrip("af")  # variants for one architecture, or for its family
        if kind not in ("sm", "compute") or not digits.isdigit():
            return True  # ROCm names its architectures otherwise, and builds for all it knows
        built = (int(digits[:-1]), int(digits[-1]))
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


def _nvidia_is_there() -> bool:
    return NVIDIA_DRIVER.exists() or (
        platform.system() == "Windows" and shutil.which("nvidia-smi") is not None
    )


def _driver() -> str:
    """The NVIDIA driver's version, as its first line says it."""
    if not NVIDIA_DRIVER.exists():
        return ""
    words = NVIDIA_DRIVER.read_text(encoding="utf-8", errors="replace").split()
    version = next((word for word in words if word[0].isdigit() and "." in word), "")
    return f", driver {version}" if version else ""


def _unusable_gpu(torch: ModuleType) -> Check:
    """There is a GPU's driver, and torch finds no GPU."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden in ("", "-1"):
        return Check(
            name="device",
            level="remark",
            found=f"the GPU is hidden by CUDA_VISIBLE_DEVICES={hidden!r}; all is computed on the CPU",
            remedy="unset CUDA_VISIBLE_DEVICES to use the GPU",
        )
    if torch.version.cuda is None:
        return Check(
            name="device",
            level="problem",
            found=f"there is an NVIDIA driver{_driver()}, and this torch is a build without CUDA",
            remedy="install the CUDA build of torch: https://pytorch.org/get-started/locally",
        )
    try:
        torch.cuda.init()
        reason = "torch finds no GPU"
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
    return Check(
        name="device",
        level="problem",
        found=f"there is an NVIDIA driver{_driver()}, and the GPU cannot be used: {reason}",
        remedy=f"update the driver so that it has CUDA {torch.version.cuda}, or install a torch for an older CUDA",
    )
