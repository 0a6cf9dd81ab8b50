"""Pictures with the statistics of photographs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def natural() -> Callable[..., Image.Image]:
    """`natural(seed, edge)`: a grey picture."""
    return _natural


def _natural(seed: int, edge: int = 256) -> Image.Image:
    """Noise with the spectrum of photographs: as much power in each octave."""
    spectrum = np.fft.rfft2(np.random.default_rng(seed).normal(size=(edge, edge)))
    frequency = np.hypot(np.fft.fftfreq(edge)[:, None], np.fft.rfftfreq(edge)[None])
    frequency[0, 0] = 1
    waves = np.fft.irfft2(spectrum / frequency, (edge, edge))
    return Image.fromarray(np.clip(waves / waves.std() * 45 + 128, 0, 255).astype(np.uint8))
