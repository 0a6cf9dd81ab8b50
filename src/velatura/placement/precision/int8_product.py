"""Products of int8 matrices, summed exactly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from velatura.placement.on_cuda import is_on_cuda

EXACT = 1024  # terms of a float32 sum of products of 8-bit integers that is still exact: 1024 * 127^2 < 2^24
STEP = 8  # on CUDA, sizes are multiples of this
LEAST_ROWS = 32  # on CUDA there are more than 16 rows


def int8_product(a: Tensor, b: Tensor) -> Tensor:
    """`[m, k]` times `[k, n]`, both int8 -> `[m, n]` float32, the sums exact up to the last rounding; on CUDA int32.

    There it is an int8 product with int32 sums, which become float32 with the scale that they are multiplied with.
    Elsewhere torch's is missing or slower by far than a float32 product, which is exact for integers as long as sums
    stay below 2^24: longer ones are put together from such.
    """
    if is_on_cuda(a.device):
        return _on_tensor_cores(a, b)
    if a.shape[1] <= EXACT:
        return a.float() @ b.float()
    parts = zip(a.split(EXACT, dim=1), b.split(EXACT, dim=0), strict=True)
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.int32, device=a.device)
    for some, others in parts:
        total += (some.float() @ others.float()).to(torch.int32)
    return total.float()


def _on_tensor_cores(a: Tensor, b: Tensor) -> Tensor:
    (m, k), n = a.shape, b.shape[1]
    rows, depth, columns = max(-(-m // STEP) * STEP, LEAST_ROWS), -(-k // STEP) * STEP, -(-n // STEP) * STEP
    if (rows, depth) != (m, k):
        a = F.pad(a, (0, depth - k, 0, rows - m))
    if (depth, columns) != (k, n):
        b = F.pad(b, (0, columns - n, 0, depth - k))
    if b.stride(0) != 1:  # cuBLAS has its fast kernels for columns that lie one after the other
        b = b.t().contiguous().t()
    return torch._int_mm(a, b)[:m, :n]
