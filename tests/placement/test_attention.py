"""Attention by name: what is computed, what is asked of a kernel, and why one cannot be had."""

from __future__ import annotations

import math
import re
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from velatura.placement import attention as module
from velatura.placement.attention import KERNELS, Attention, AttentionName, why_not

CUDA = torch.device("cuda")


def by_hand(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(E)) V for `[B, T, H, E]`."""
    scores = torch.einsum("bthe,bshe->bhts", query, key) / math.sqrt(query.shape[-1])
    return torch.einsum("bhts,bshe->bthe", scores.softmax(-1), value)


def tensors(batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(batch, 7, 2, 8), torch.randn(batch, 5, 2, 8), torch.randn(batch, 5, 2, 8)


@pytest.mark.parametrize("split", [False, True])
def test_values_and_gradients(split: bool) -> None:
    given = [tensor.requires_grad_() for tensor in tensors()]
    out, wanted = Attention(split=split)(*given), by_hand(*given)
    torch.testing.assert_close(out, wanted, atol=1e-6, rtol=1e-5)
    for found, expected in zip(
        torch.autograd.grad(out.square().sum(), given),
        torch.autograd.grad(wanted.square().sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that anything gave."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.most = max(self.most, tensor.nbytes)
        return out


@pytest.mark.parametrize("split", [False, True])
def test_one_item_at_a_time_holds_the_scores_of_one(split: bool) -> None:
    query = torch.randn(4, 64, 2, 8)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), Largest() as seen:
        Attention(split=split)(query, query, query)
    scores = 2 * 64 * 64 * 4  # heads, queries, keys, bytes of float32
    assert seen.most == scores * (1 if split else 4)


def test_everything_is_computed_in_the_dtype_of_the_values() -> None:
    query, key, value = tensors()
    assert Attention()(query, key, value.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["flash", "sage", "xformers"])
def test_a_kernel_is_called_by_diffusers_name(name: AttentionName, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def dispatch(*given: Tensor, backend: AttentionBackendName) -> Tensor:
        asked.append(backend.value)
        return by_hand(*given)

    monkeypatch.setattr(module, "dispatch_attention_fn", dispatch)
    given = tensors()
    assert torch.equal(Attention(name=name)(*given), by_hand(*given))
    assert asked == [name]


@pytest.mark.parametrize("as_tuple", [False, True])
def test_flash3_is_trained_through_its_own_function(as_tuple: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def flash_attn_func(*given: Tensor) -> Any:
        return (by_hand(*given), None) if as_tuple else by_hand(*given)

    monkeypatch.setitem(sys.modules, "flash_attn_interface", SimpleNamespace(flash_attn_func=flash_attn_func))
    given = tensors()
    given[0].requires_grad_()
    Attention(name="flash3")(*given).sum().backward()
    assert given[0].grad is not None


def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "attention_backend", lambda backend: nullcontext())


def test_sdpa_can_always_be_had() -> None:
    assert why_not("sdpa", device=torch.device("cpu"), dtype=torch.float32, heads=[7]) is None


@pytest.mark.parametrize("name", KERNELS)
def test_what_is_not_installed_is_said_with_what_to_install(name: AttentionName) -> None:
    try:
        with module.attention_backend(KERNELS[name].backend):
            pytest.skip(f"{name} is installed here")
    except RuntimeError:
        pass
    why = why_not(name, device=CUDA, dtype=torch.bfloat16, heads=[128])
    assert why is not None
    assert KERNELS[name].package in why


@pytest.mark.parametrize(
    ("name", "device", "dtype", "heads", "why"),
    [
        ("flash", "cuda", torch.bfloat16, [40, 80, 160], None),
        ("xformers", "cuda", torch.float32, [128], None),
        ("flash", "cpu", torch.bfloat16, [128], "runs on CUDA alone, and the device is cpu"),
        ("flash", "cuda", torch.float32, [128], "computes in bf16 or fp16, and the precision is fp32"),
        ("sage", "cuda", torch.float16, [160, 80], "heads of at most 128 values.* has heads of 160$"),
        ("flash3", "cuda", torch.float16, [12], "multiples of 8, and the model has heads of 12"),
    ],
)
def test_what_a_kernel_asks_for(
    name: AttentionName,
    device: str,
    dtype: torch.dtype,
    heads: list[int],
    why: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    found = why_not(name, device=torch.device(device), dtype=dtype, heads=heads)
    if why is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(why, found)


@pytest.mark.parametrize(
    ("name", "has", "why"),
    [
        ("flash", (7, 5), "made for GPUs of compute capability 8.0 or more, and this one has 7.5"),
        ("flash", (12, 0), None),
        ("flash3", (8, 9), "made for GPUs of compute capability 9.0, and this one has 8.9"),
        ("flash3", (10, 0), "made for GPUs of compute capability 9.0, and this one has 10.0"),
        ("flash3", (9, 0), None),
        ("sage", (7, 5), "made for GPUs of compute capability 8.0 or more"),
        ("xformers", (7, 5), None),
    ],
)
def test_a_kernel_asks_for_gpus_that_it_is_made_for(
    name: AttentionName, has: tuple[int, int], why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be found out at the first step, which ends the run."""
    installed(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: has)
    found = why_not(name, device=CUDA, dtype=torch.float16, heads=[128])
    assert (found is None) == (why is None)
    assert why is None or why in str(found)
