"""What fits on a device, and what is said when memory runs out."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch

from velatura.errors import MemoryShortage
from velatura.families.flux import FluxFamily
from velatura.interfaces import ModelFiles
from velatura.sampling.memory import enough_to, fits_whole, weight_bytes

from ..tiny import load

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def test_weights_are_counted_from_headers(tiny_model: Path) -> None:
    family, parts = load(tiny_model)
    counts = family.weight_counts(ModelFiles(model=str(tiny_model)))
    assert counts == {
        part: sum(parameter.numel() for module in parts.modules(part) for parameter in module.parameters())
        for part in ("text_encoders", "autoencoder", "denoiser")
    }


def test_what_fits_depends_on_the_memory_and_the_weights(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, files = FluxFamily(), ModelFiles(model=str(tiny_model))
    counts = family.weight_counts(files)
    wide = 2 * sum(counts.values())  # bytes in bf16
    narrow = wide - counts["denoiser"]

    def fits(total: float, weights: str, streamed: float = 0.0) -> bool:
        held = int(total) // 3  # by this process already
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(total) - held, 10 * int(total)))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: held)
        return fits_whole(weight_bytes(family, files, torch.bfloat16, weights, streamed), CUDA)  # type: ignore[arg-type]

    assert fits(1.4 * wide, "full")
    assert not fits(1.3 * wide, "full")
    assert fits(1.4 * narrow, "fp8")
    assert not fits(1.3 * narrow, "fp8")
    assert fits(1.4 * (wide - counts["denoiser"]), "full", streamed=0.5)
    assert not fits(1.3 * (wide - counts["denoiser"]), "full", streamed=0.5)
    assert fits_whole(weight_bytes(family, files, torch.float32, "full"), CPU)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
    ],
)
def test_a_shortage_says_what_needs_less(error: Exception) -> None:
    with (
        pytest.raises(MemoryShortage, match="of cpu is too small to paint 64x32: ask for a smaller size"),
        enough_to("paint 64x32", CPU, instead="a smaller size"),
    ):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), enough_to("paint", CPU, instead="less"):
        raise RuntimeError("shapes do not fit")


def test_what_was_computed_is_let_go_before_the_caller_tries_with_less() -> None:
    gone: list[weakref.ref[torch.Tensor]] = []

    def paint() -> None:
        large = torch.ones(8)
        gone.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    try:
        with enough_to("paint", CPU, instead="less"):
            paint()
    except MemoryShortage:
        assert gone[0]() is None
    assert len(gone) == 1
