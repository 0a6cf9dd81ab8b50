"""What operations take while they run, beside their results: the workspace of torch's CPU kernels and of oneDNN.

The figures are those of torch 2.13 by its allocator's account, on processors with AVX2 and with AVX-512. Where 16 bits
have hardware (AMX, AVX512_BF16, AVX512_FP16) they are taken to be as in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_PRODUCTS = {
    torch.ops.aten.mm.default: 0,  # where the factors begin in the arguments
    torch.ops.aten.bmm.default: 0,
    torch.ops.aten.addmm.default: 1,
    torch.ops.aten.baddbmm.default: 1,
}
_SMALL = 16**3  # products of fewer multiplications are not oneDNN's


def workspace_on_cpu(func: Any, args: tuple[Any, ...], out: Any, *, bf16_in_hardware: bool) -> int:
    """Bytes that one of torch's functions takes while it runs, of which `out` is the result; 0 for most."""
    if func is torch.ops.aten.convolution.default:
        return _convolution(args[0], args[1], out, emulated=_emulated(out, bf16_in_hardware))
    if func in _PRODUCTS and _emulated(out, bf16_in_hardware):
        return _emulated_product(args[_PRODUCTS[func]], out)
    return 0


def _emulated(out: Tensor, bf16_in_hardware: bool) -> bool:
    """Whether oneDNN computes in bf16 without hardware for it, on AVX-512: its sums are float32."""
    return out.dtype == torch.bfloat16 and not bf16_in_hardware and _in_onednn(out.dtype)


def _emulated_product(first: Tensor, out: Tensor) -> int:
    rows, columns = out.shape[-2:]
    if min(rows, columns) == 1 or rows * columns * first.shape[-1] <= _SMALL:
        return 0
    return rows * columns * 4  # of a batch of products one after the other


def _convolution(x: Tensor, weight: Tensor, out: Tensor, *, emulated: bool) -> int:
    """OneDNN copies what it reads into blocks of channels, and its result out of them.

    Kernels of one pixel need no copies, but where bf16 is emulated, with the sums of an image in float32 for each
    thread. In a dtype that oneDNN does not convolve here torch lays out a column for each pixel of the result.
    """
    single = weight.shape[2:].numel() == 1
    if not _in_onednn(x.dtype):
        columns = x.shape[1] * weight.shape[2:].numel() * out.shape[0] * out.shape[2:].numel()
        return 0 if single else columns * x.itemsize
    if single and not emulated:
        return 0
    made = _in_blocks(out)
    sums = torch.get_num_threads() * 2 * made // out.shape[0] if single else 0  # twice as wide as bf16
    read = _in_blocks(x) + _in_blocks(weight.transpose(0, 1))
    return max(sums + read + made - out.nbytes, made)


def _in_blocks(tensor: Tensor) -> int:
    """Bytes with whole blocks of channels, which are axis 1."""
    block = 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8
    channels = tensor.shape[1]
    return tensor.nbytes // channels * (-(-channels // block) * block)


def _in_onednn(dtype: torch.dtype) -> bool:
    """bf16 from AVX-512 on, where products in it have no hardware yet; fp16 from its hardware on."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return True
