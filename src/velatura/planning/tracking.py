"""What a piece of code holds in memory and computes, followed tensor by tensor, also where tensors have no values.

Live bytes are those of storages that some tensor still refers to: what an allocator would have handed out. The code
may be cut into segments by `mark`, so that a part that repeats need be followed only once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from velatura.planning.devices import Device
from velatura.planning.on_cuda import on_cuda
from velatura.planning.replay import perform
from velatura.planning.workspace import workspace_on_cpu

Kind = Literal[
    "denoiser", "autoencoder", "text encoders", "trained", "optimizer", "gradients", "averages", "activations"
]
KINDS: tuple[Kind, ...] = (
    "denoiser", "autoencoder", "text encoders", "trained", "optimizer", "gradients", "averages", "activations",
)  # fmt: skip
Label = tuple[str, int]  # ("forward", 3): the forward pass of the fourth block


class Bytes(dict[Kind, int]):
    """Bytes by what they are for; missing kinds are 0."""

    def __missing__(self, kind: Kind) -> int:
        return 0

    @property
    def total(self) -> int:
        """Of all kinds."""
        return sum(self.values())

    def plus(self, other: Mapping[Kind, int], times: int = 1) -> Bytes:
        """The sum with `times` the other."""
        return Bytes({kind: self[kind] + times * other.get(kind, 0) for kind in KINDS})


@dataclass(kw_only=True)
class Work:
    """What was computed: floating-point operations, and seconds by a device's speeds."""

    flops: float = 0.0
    seconds: float = 0.0
    bound_by_arithmetic: float = (
        0.0  # seconds of operations that are limited by it; the rest waits for memory
    )

    def add(self, other: Work, times: float = 1) -> None:
        """Add `times` the other."""
        self.flops += times * other.flops
        self.seconds += times * other.seconds
        self.bound_by_arithmetic += times * other.bound_by_arithmetic


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of code: live bytes when it began, at its peak, when it ended; and its work."""

    label: Label
    start: Bytes
    peak: Bytes
    end: Bytes
    work: Work


class Tracker(TorchDispatchMode):
    """Follows all operations within its `with` block; `segments` holds the result afterwards.

    Values that are read (`float(x)`, `bool(x)`) are 1.0 and True where tensors have none.
    """

    def __init__(self, device: Device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.segments: list[Segment] = []
        self._device = device
        self._live = Bytes()
        self._total = 0
        self._kinds: dict[int, Kind] = {}  # by storage
        self._in_kernel = False
        self._highest = 0
        self._begin(("start", 0))

    def know(self, tensors: Iterable[Tensor], kind: Kind) -> None:
        """Say what some tensors are for; they count as live from now on."""
        for tensor in tensors:
            self._take(tensor, kind)

    def hold(self, kind: Kind, size: int) -> None:
        """Count bytes that no tensor here stands for."""
        self._live[kind] += size
        self._total += size

    @contextmanager
    def kernel(self, read: Iterable[Tensor | None], written: Iterable[Tensor]) -> Iterator[None]:
        """What is done within is one compiled kernel: it reads and writes these tensors, and holds nothing besides.

        What is written is read as well.
        """
        self._in_kernel = True
        try:
            yield
        finally:
            self._in_kernel = False
        traffic = sum(_size(one) for one in read if one is not None) + 2 * sum(map(_size, written))
        self._now.add(Work(seconds=self._device.lasting(traffic / self._device.bandwidth)))

    def mark(self, label: Label) -> None:
        """End the segment at hand and begin another."""
        self._finish()
        self._begin(label)

    def __enter__(self) -> Tracker:
        self._as_there: AbstractContextManager[None] = (
            on_cuda() if self._device.kind == "cuda" else nullcontext()
        )
        self._as_there.__enter__()
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._as_there.__exit__(None, None, None)
        self._finish()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation, and take note of the storages that it read and made."""
        kwargs = kwargs or {}
        asks = func.namespace == "prim"  # for a device or a layout
        if asks or self._in_kernel:
            return func(*args, **kwargs)
        read = _tensors(args)
        for tensor in read:
            self._take(tensor)
        if func is torch.ops.aten._local_scalar_dense.default:
            return _value(args[0])
        out = perform(func, args, kwargs, read)
        made = _tensors(out if isinstance(out, (tuple, list)) else (out,))
        for tensor in made:
            self._take(tensor)
        if self._device.kind == "cpu":
            self._top(workspace_on_cpu(func, args, out, bf16_in_hardware=self._device.bf16))
        if not func.is_view and func not in _FREE:
            self._work(func, args, kwargs, out, sum(map(_size, read)) + sum(map(_size, made)))
        return out

    def _take(self, tensor: Tensor, kind: Kind | None = None) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        before = self._kinds.get(key)
        if before is not None:
            if kind is not None and kind != before:
                self._live[before] -= size
                self._live[kind] += size
                self._kinds[key] = kind
            return
        self._kinds[key] = kind or "activations"
        self._live[self._kinds[key]] += size
        self._total += size
        weakref.finalize(storage, self._gone, key, size).atexit = False
        self._top()

    def _top(self, brief: int = 0) -> None:
        """Note what is live now, and what an operation takes while it runs, where it is the most so far."""
        if self._total + brief > self._highest:
            self._highest, self._peak = self._total + brief, Bytes(self._live).plus({"activations": brief})

    def _gone(self, key: int, size: int) -> None:
        self._live[self._kinds.pop(key)] -= size
        self._total -= size

    def _work(self, func: Any, args: Any, kwargs: Any, out: Any, size: int) -> None:
        count = _flops(func)
        flops = float(count(*args, **kwargs, out_val=out)) if count else 0.0
        speed = self._device.attends if func in _ATTENTIONS else self._device.flops
        arithmetic = flops / speed(_dtype(args))
        seconds = self._device.lasting(arithmetic, size / self._device.bandwidth)
        self._now.add(
            Work(
                flops=flops,
                seconds=seconds,
                bound_by_arithmetic=seconds if arithmetic * 2 > seconds else 0.0,
            )
        )

    def _begin(self, label: Label) -> None:
        self._label, self._start = label, Bytes(self._live)
        self._highest, self._peak = self._total, Bytes(self._live)
        self._now = Work()

    def _finish(self) -> None:
        end = Bytes(self._live)
        self.segments.append(
            Segment(label=self._label, start=self._start, peak=self._peak, end=end, work=self._now)
        )


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among arguments or results, also those in lists."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [inner for inner in value if isinstance(inner, Tensor)]
    return found


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.itemsize


def _dtype(args: Iterable[Any]) -> torch.dtype:
    return next((arg.dtype for arg in args if isinstance(arg, Tensor)), torch.float32)


def _value(tensor: Tensor) -> bool | int | float:
    if tensor.dtype == torch.bool:
        return True
    return 1.0 if tensor.is_floating_point() else 1


def _flops(func: Any) -> Callable[..., int] | None:
    """How many operations one of torch's functions takes; None where they do not matter."""
    packet = func._overloadpacket
    return flop_registry.get(packet) or _MORE.get(packet)


def _product(a: Tensor, b: Tensor, **kwargs: Any) -> int:
    return 2 * a.shape[0] * a.shape[1] * b.shape[1]


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, out_val: Any, **kwargs: Any) -> int:
    """q k^T and p v of `[B, H, L, E]`."""
    batch, heads, length, size = query.shape
    return 2 * batch * heads * length * key.shape[2] * (size + value.shape[3])


def _attention_backward(gradient: Tensor, *args: Any, **kwargs: Any) -> int:
    """Five products, where the forward pass has two."""
    return _attention(*args[:3], out_val=None) * 5 // 2


_FREE = (torch.ops.aten._unsafe_view.default, torch.ops.aten.detach.default)  # nothing is read or written
_MORE: dict[Any, Callable[..., int]] = {
    torch.ops.aten._int_mm: _product,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
_ATTENTIONS = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
)
