"""Memory while painting: whether all parts of a model fit on its device at once, and what is said when it runs out."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch

from velatura.errors import MemoryShortage
from velatura.interfaces import Family, ModelFiles, PartName
from velatura.placement.precision.quantised import BYTES, Weights
from velatura.placement.shortage import is_shortage

Encoders = Literal["auto", "cpu"]  # where text encoders are run
FILLED = 0.75  # share of a GPU's memory that weights may take; the rest is for what is computed


def weight_bytes(
    family: Family, files: ModelFiles, dtype: torch.dtype, weights: Weights, streamed: float = 0.0
) -> dict[PartName, int]:
    """What the weights of each part take on a device. `streamed`: share of the denoiser that is elsewhere."""
    counts = family.weight_counts(files)
    size = {part: count * dtype.itemsize for part, count in counts.items()}
    if weights != "full":
        size["denoiser"] = round(counts["denoiser"] * BYTES[weights])
    size["denoiser"] = round(size["denoiser"] * (1 - streamed))
    return size


def fits_whole(sizes: Mapping[PartName, int], device: torch.device) -> bool:
    """Whether the weights of all parts fit on the device together; where it shares the machine's memory they must.

    What other programs have taken does not count as the device's; what this one holds does.
    """
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return sum(sizes.values()) <= FILLED * (free + torch.cuda.memory_reserved(device))


@contextmanager
def enough_to(do: str, device: torch.device, *, instead: str) -> Iterator[None]:
    """Turn running out of memory into a MemoryShortage: it says what was done, and what would need less."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        # they hold what was computed, and the caller may try with less
        traceback.clear_frames(error.__traceback__)
        raise MemoryShortage(f"the memory of {device} is too small to {do}: ask for {instead}") from None
