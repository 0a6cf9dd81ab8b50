"""Attention by name: which kernel computes it, and why one that was asked for cannot be had here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    attention_backend,
    dispatch_attention_fn,
)
from torch import Tensor

# B items, T queries, S keys, H heads, E head size

AttentionName = Literal["sdpa", "flash", "flash3", "sage", "xformers"]


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """What a kernel needs. `backend`: diffusers' name for it."""

    backend: AttentionBackendName
    package: str  # to be installed
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)
    largest_head: int = 256
    least: tuple[int, int] = (0, 0)  # compute capability of the GPUs it is made for
    below: tuple[int, int] | None = None


KERNELS: Mapping[str, Kernel] = {
    "flash": Kernel(backend=AttentionBackendName.FLASH, package="flash-attn 2.6.3 or newer", least=(8, 0)),
    "flash3": Kernel(
        backend=AttentionBackendName._FLASH_3,
        package="flash-attn 3, built from its source",
        least=(9, 0),
        below=(10, 0),
    ),
    "sage": Kernel(
        backend=AttentionBackendName.SAGE,
        package="sageattention 2.1.1 or newer",
        largest_head=128,
        least=(8, 0),
    ),
    "xformers": Kernel(
        backend=AttentionBackendName.XFORMERS,
        package="xformers 0.0.29 or newer",
        dtypes=(torch.bfloat16, torch.float16, torch.float32),
    ),
}
HEAD_STEP = 8  # all of them want head sizes that are multiples of this


@dataclass(frozen=True, kw_only=True)
class Attention:
    """How a model's attention is computed: by which kernel, and whether one item of the batch at a time."""

    name: AttentionName = "sdpa"
    split: bool = False

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries `[B, T, H, E]`, keys and values `[B, S, H, E]` -> `[B, T, H, E]`, in the values' dtype."""
        query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast norms give float32
        if self.split and len(value) > 1:
            items = zip(query.split(1), key.split(1), value.split(1), strict=True)
            return torch.cat([_attend(self.name, *item) for item in items])
        return _attend(self.name, query, key, value)


def _attend(name: AttentionName, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    if name == "flash3" and torch.is_grad_enabled():  # diffusers' way to it has no backward pass
        from flash_attn_interface import flash_attn_func  # type: ignore[import-not-found]

        found: Tensor | tuple[Tensor, ...] = flash_attn_func(query, key, value)
        return found[0] if isinstance(found, tuple) else found  # its first versions return log-sums too
    backend = AttentionBackendName.NATIVE if name == "sdpa" else KERNELS[name].backend
    out: Tensor = dispatch_attention_fn(query, key, value, backend=backend)
    return out


def why_not(
    name: AttentionName, *, device: torch.device, dtype: torch.dtype, heads: Iterable[int]
) -> str | None:
    """Why a kernel cannot be had for a model with these head sizes on this device; None where it can."""
    if name == "sdpa":
        return None
    kernel = KERNELS[name]
    try:
        with attention_backend(kernel.backend):  # which looks for the package
            pass
    except RuntimeError:
        return f"it is not installed, or cannot be loaded (install {kernel.package})"
    if device.type != "cuda":
        return f"it runs on CUDA alone, and the device is {device.type}"
    has = torch.cuda.get_device_capability(device)
    if has < kernel.least or (kernel.below is not None and has >= kernel.below):
        wanted = ".".join(map(str, kernel.least)) + (" or more" if kernel.below is None else "")
        return (
            f"it is made for GPUs of compute capability {wanted}, and this one has {'.'.join(map(str, has))}"
        )
    if dtype not in kernel.dtypes:
        wanted = " or ".join(_short(one) for one in kernel.dtypes)
        return f"it computes in {wanted}, and the precision is {_short(dtype)}"
    if wrong := [size for size in sorted(heads) if size > kernel.largest_head or size % HEAD_STEP]:
        return (
            f"it takes heads of at most {kernel.largest_head} values, in multiples of {HEAD_STEP}, and the model has "
            f"heads of {', '.join(map(str, wrong))}"
        )
    return None


def _short(dtype: torch.dtype) -> str:
    names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
    return names.get(dtype, str(dtype))
