"""What CUDA does otherwise than the CPU, for plans, which are followed on tensors that say that they are on the CPU.

- What our own code does otherwise there (see `placement.on_cuda`): int8 products, updates of small tensors together, ….
- `rms_norm` is one kernel where weight and input have one dtype; it keeps its input and a number a row for the backward
  pass (`_fused_rms_norm` in torch 2.13), where the CPU computes in float32, step by step.
- Autocast widens norms and upsampling to float32 (AT_FORALL_FP32 in ATen/autocast_mode.h, as far as models use it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from velatura.placement.on_cuda import as_on_cuda

_NARROW = (torch.bfloat16, torch.float16)
_RMS_NORM = {F.rms_norm, torch.rms_norm}
# a mode sees the first of the two that is called
_WIDENED = _RMS_NORM | {
    F.layer_norm, torch.layer_norm, F.group_norm, torch.group_norm, F.interpolate, F.mse_loss, F.l1_loss,
}  # fmt: skip


@contextmanager
def on_cuda() -> Iterator[None]:
    """Within the block operations are those of CUDA, by what they read, make and keep."""
    with as_on_cuda(), _OnCuda():
        yield


def recomputed_on_cuda(run: Callable[..., Any]) -> Callable[..., Any]:
    """The same for what may be run again in a backward pass, where torch knows of no mode that is on outside."""

    def there(*args: Any, **kwargs: Any) -> Any:
        with _OnCuda():
            return run(*args, **kwargs)

    return there


class _OnCuda(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func in _WIDENED:
            if torch.is_autocast_enabled("cpu"):
                args = tuple(map(_widened, args))
                given = {name: _widened(one) for name, one in given.items()}
            if func in _RMS_NORM:
                return _rms_norm(func, *args, **given)
        return func(*args, **given)


def _rms_norm(
    func: Callable[..., Tensor],
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    if weight is not None and weight.dtype != x.dtype:
        return func(x, normalized_shape, weight, eps)
    out: Tensor = _FusedNorm.apply(x, weight)  # type: ignore[no-untyped-call]
    return out


class _FusedNorm(torch.autograd.Function):
    """A kernel in each direction, by what it reads and writes; the values do not matter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        """One number a row is kept beside x."""
        ctx.save_for_backward(x, weight, torch.empty(x.shape[:-1], dtype=torch.float32))
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Of x, and of the weight where it is trained."""
        x, weight, _ = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad
        return (
            torch.addcmul(gradient, x, gradient) if of_x else None,
            torch.empty_like(weight) if of_weight else None,
        )


def _widened(one: Any) -> Any:
    return one.float() if isinstance(one, Tensor) and one.dtype in _NARROW else one
