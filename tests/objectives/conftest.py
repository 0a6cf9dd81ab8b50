"""A family whose parts are arithmetic, so that every loss can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from velatura.draws import Draw
from velatura.families.flux import FlowSchedule
from velatura.families.noise_schedule import NoiseSchedule
from velatura.interfaces import (
    Batch,
    Conditioning,
    ModelInfo,
    Parts,
    Prediction,
    Prompt,
    SamplingDefaults,
    Schedule,
)

SHAPE = (2, 4, 6)  # C, H, W of the latents
KEPT = torch.cumprod(
    1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0
)  # SD 1.x


@dataclass
class Fake:
    """Predicts 2 x + t + the item's pooled number + guidance, and remembers what it was asked."""

    schedule: Schedule = field(default_factory=FlowSchedule)
    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def predict(
        self, parts: Parts, latents: Tensor, t: Tensor, conditioning: Conditioning, *, guidance: float = 1.0
    ) -> Tensor:
        self.calls.append((latents, t))
        return 2 * latents + (t + conditioning.tensors["pooled"] + guidance).view(-1, 1, 1, 1)

    def encode(self, parts: Parts, prompts: Sequence[Prompt]) -> Conditioning:
        """A text is the number of its letters."""
        return Conditioning(tensors={"pooled": torch.tensor([float(len(p.text)) for p in prompts])})

    def encode_image(self, parts: Parts, images: Tensor, draw: Draw | None = None) -> Tensor:
        assert draw is not None
        return images[:, :2] + draw.normal("posterior", images[0, :2].shape)

    def tokens(self, latents: Tensor) -> int:
        return 1024


def noise_schedule() -> NoiseSchedule:
    return NoiseSchedule(KEPT)


def parts(prediction: Prediction) -> Parts:
    info = ModelInfo(
        family="fake",
        variant="test",
        architecture="fake",
        latent_channels=2,
        latent_scale=8,
        size_step=16,
        prediction=prediction,
        shifted=True,
        defaults=SamplingDefaults(size=32, steps=4),
        fingerprints={},
    )
    return Parts(info=info)


@pytest.fixture
def family() -> Any:
    return Fake()


@pytest.fixture
def batch() -> Batch:
    """Three items at slots 4, 5, 6 with weights 1, 2, 3 and captions of 1, 2, 3 letters."""
    return Batch(
        names=("a", "b", "c"),
        prompts=(Prompt(text="x"), Prompt(text="xx"), Prompt(text="xxx")),
        weights=torch.tensor([1.0, 2.0, 3.0]),
        slots=(4, 5, 6),
        latents=Draw.of(0, slots=3).normal("latents", SHAPE),
        conditioning=Conditioning(tensors={"pooled": torch.tensor([1.0, 2.0, 3.0])}),
    )


@pytest.fixture
def draw(batch: Batch) -> Draw:
    return Draw(seed=9, step=2, slots=batch.slots)
