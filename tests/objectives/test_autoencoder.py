"""Reconstruction, with an autoencoder that is arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from velatura.draws import Draw
from velatura.errors import ModelError
from velatura.interfaces import Batch, Parts
from velatura.objectives.autoencoder import Autoencoder
from velatura.recipe.objectives.autoencoder import AutoencoderObjective

from .conftest import parts as info_only


@dataclass
class Halving:
    """Latents are x / 2 + 1 with deviation 0.1; decoding undoes it."""

    config: dict[str, float] = field(default_factory=dict)
    seen: list[Tensor] = field(default_factory=list)

    def encode(self, images: Tensor) -> Any:
        self.seen.append(images)
        mean = images / 2 + 1
        kl = 0.5 * (mean**2 + 0.01 - 1 - np.log(0.01)).sum((1, 2, 3))
        return SimpleNamespace(
            latent_dist=SimpleNamespace(mean=mean, std=torch.full_like(mean, 0.1), kl=lambda: kl)
        )

    def decode(self, latents: Tensor) -> Any:
        return SimpleNamespace(sample=(latents - 1) * 2)

    def register_to_config(self, **values: float) -> None:
        self.config |= values


def parts(autoencoder: Any) -> Parts:
    return replace(info_only("velocity"), autoencoder=autoencoder)


def images(batch: Batch, height: int = 8, width: int = 12, seed: int = 1) -> Batch:
    pixels = Draw.of(seed, slots=len(batch.names)).uniform("pixels", (3, height, width)) * 2 - 1
    return replace(batch, latents=None, images=pixels)


def test_losses_by_hand(family: Any, batch: Batch, draw: Draw) -> None:
    """The reconstruction is off by d = 2 * 0.1 * noise: |d| + d^2, the same of its differences, and the KL."""
    config = AutoencoderObjective(kl_weight=0.01, gradient_weight=0.5)
    batch = images(batch)
    (loss,) = Autoencoder(config).losses(family, parts(Halving()), batch, draw)
    d = 0.2 * draw.normal("posterior", (3, 8, 12)).double().numpy()

    def both(x: Any) -> Any:
        return np.abs(x).mean((1, 2, 3)) + (x**2).mean((1, 2, 3))

    assert batch.images is not None
    mean = batch.images.double().numpy() / 2 + 1
    kl = (0.5 * (mean**2 + 0.01 - 1 - np.log(0.01))).mean((1, 2, 3))
    edges = both(np.diff(d, axis=2)) + both(np.diff(d, axis=3))
    np.testing.assert_allclose(loss.per_item.numpy(), both(d) + 0.5 * edges + 0.01 * kl, rtol=1e-4)
    assert loss.terms["pixels"] == pytest.approx(both(d).mean(), rel=1e-4)
    assert torch.equal(loss.weight, batch.weights)


def test_crops_are_windows_of_each_item(family: Any, batch: Batch, draw: Draw) -> None:
    autoencoder, batch = Halving(), images(batch, 40, 48)
    objective = Autoencoder(AutoencoderObjective(crop=16))
    list(objective.losses(family, parts(autoencoder), batch, draw))
    (seen,) = autoencoder.seen
    assert seen.shape == (3, 3, 16, 16)
    assert batch.images is not None
    places = set()
    for crop, whole in zip(seen, batch.images, strict=True):
        windows = whole.unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4)
        found = (windows == crop).flatten(2).all(2).nonzero()
        assert len(found) == 1
        places.add(tuple(found[0].tolist()))
    assert len(places) == 3  # each item at a place of its own


def test_crops_reach_every_edge(family: Any, batch: Batch) -> None:
    objective = Autoencoder(AutoencoderObjective(crop=16))
    count = 400
    ramp = torch.arange(20.0).view(1, 1, 20, 1) + 100 * torch.arange(18.0).view(1, 1, 1, 18)
    corners = objective._crops(ramp.expand(count, 3, 20, 18), Draw.of(0, slots=count))[:, 0, 0, 0]
    assert {int(v) % 100 for v in corners} == {0, 1, 2, 3, 4}
    assert {int(v) // 100 for v in corners} == {0, 1, 2}


def test_small_images_are_not_cropped(family: Any, batch: Batch, draw: Draw) -> None:
    autoencoder = Halving()
    list(Autoencoder(AutoencoderObjective(crop=16)).losses(family, parts(autoencoder), images(batch), draw))
    assert autoencoder.seen[0].shape[2:] == (8, 12)


def test_finish_levels_the_latents_over_batches_of_different_sizes(family: Any, batch: Batch) -> None:
    """Afterwards (latents - shift) * scale has mean 0 and deviation 1 over all values of all batches."""
    autoencoder = Halving()
    several = [images(batch, 8, 12, seed=1), images(batch, 16, 8, seed=2)]

    def given() -> Iterator[Batch]:
        yield from several

    Autoencoder(AutoencoderObjective()).finish(family, parts(autoencoder), given())
    values = np.concatenate(
        [(b.images.double().numpy() / 2 + 1).ravel() for b in several if b.images is not None]
    )
    levelled = (values - autoencoder.config["shift_factor"]) * autoencoder.config["scaling_factor"]
    assert abs(levelled.mean()) < 1e-5
    assert abs(levelled.std() - 1) < 1e-3  # the last digit of the rounded scale, and n - 1 for n


def test_latents_instead_of_images_are_refused(family: Any, batch: Batch, draw: Draw) -> None:
    with pytest.raises(ModelError, match="trains on images"):
        next(Autoencoder(AutoencoderObjective()).losses(family, parts(Halving()), batch, draw))
