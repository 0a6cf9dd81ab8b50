"""Loss masks: what is masked out teaches nothing, and what counts is a weighted mean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from velatura.draws import Draw
from velatura.interfaces import Batch, Conditioning, Family, Parts
from velatura.objectives.denoising import Denoising, mean_error
from velatura.objectives.diffusion import Diffusion
from velatura.objectives.flow import Flow
from velatura.recipe.objectives.diffusion import DiffusionObjective
from velatura.recipe.objectives.flow import FlowObjective

from .conftest import SHAPE, Fake, noise_schedule, parts

PIXELS = (SHAPE[1] * 8, SHAPE[2] * 8)  # of the images, where masks are given


def masked(batch: Batch, mask: Tensor) -> Batch:
    return replace(batch, companions={"mask": mask})


def area_means(mask: Tensor) -> Any:
    """The mean of each 8 x 8 pixels, `[B, 1, H, W]`."""
    rows = mask.double().numpy().reshape(3, 1, SHAPE[1], 8, SHAPE[2], 8)
    return rows.mean((3, 5))


def test_the_mean_is_weighted_by_the_share_of_each_latent_pixel(batch: Batch) -> None:
    mask = torch.rand(3, 1, *PIXELS, generator=torch.Generator().manual_seed(0))
    squared = Draw.of(1, slots=3).uniform("squares", SHAPE)
    weights, values = area_means(mask), squared.double().numpy()
    expected = (values * weights).sum((1, 2, 3)) / (weights.sum((1, 2, 3)) * SHAPE[0])
    np.testing.assert_allclose(mean_error(squared, masked(batch, mask)).numpy(), expected, rtol=1e-5)
    theirs = (values * weights).mean((1, 2, 3))  # sd-scripts: over all pixels
    np.testing.assert_allclose(
        mean_error(squared, masked(batch, mask), "sd-scripts").numpy(), theirs, rtol=1e-5
    )


def test_without_a_mask_and_with_one_that_is_white(batch: Batch) -> None:
    squared = Draw.of(1, slots=3).uniform("squares", SHAPE)
    plain = mean_error(squared, batch)
    torch.testing.assert_close(plain, squared.mean((1, 2, 3)))
    white = masked(batch, torch.ones(3, 1, *PIXELS))
    torch.testing.assert_close(mean_error(squared, white), plain)
    torch.testing.assert_close(mean_error(squared, masked(batch, torch.full((3, 1, *PIXELS), 0.3))), plain)
    torch.testing.assert_close(mean_error(squared, white, "sd-scripts"), plain)


def test_an_empty_mask_is_an_error_of_zero_and_no_gradient(batch: Batch) -> None:
    mask = torch.ones(3, 1, *PIXELS)
    mask[1] = 0
    squared = torch.ones(3, *SHAPE, requires_grad=True)
    for compat in (None, "sd-scripts"):
        found = mean_error(squared, masked(batch, mask), compat)
        assert found.tolist() == pytest.approx([1, 0, 1])
        (gradient,) = torch.autograd.grad(found.sum(), squared)
        assert torch.isfinite(gradient).all()
        assert not gradient[1].any()


class Painter(Fake):
    """Predicts a picture of its own, the same for all items."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.picture = torch.zeros(SHAPE, requires_grad=True)

    def predict(
        self, parts: Parts, latents: Tensor, t: Tensor, conditioning: Conditioning, *, guidance: float = 1.0
    ) -> Tensor:
        return self.picture.expand(len(latents), *SHAPE)


OBJECTIVES: list[tuple[Denoising, dict[str, Any]]] = [
    (Flow(FlowObjective(), guidance=1.0), {}),
    (Diffusion(DiffusionObjective(min_snr_gamma=5)), {"schedule": noise_schedule()}),
]


@pytest.mark.parametrize(("objective", "options"), OBJECTIVES, ids=["flow", "diffusion"])
def test_a_region_that_is_masked_out_has_no_gradient(
    objective: Denoising, options: dict[str, Any], batch: Batch, draw: Draw
) -> None:
    painter = Painter(**options)
    family: Family = painter  # type: ignore[assignment]
    mask = torch.ones(3, 1, *PIXELS)
    mask[..., : PIXELS[1] // 2] = 0  # the left half, of all items
    half = SHAPE[2] // 2
    (loss,) = objective.losses(family, parts("velocity"), masked(batch, mask), draw)
    loss.per_item.sum().backward()
    assert painter.picture.grad is not None
    assert not painter.picture.grad[:, :, :half].any()
    assert painter.picture.grad[:, :, half:].all()


@pytest.mark.parametrize(("objective", "options"), OBJECTIVES, ids=["flow", "diffusion"])
def test_validation_looks_where_training_does(
    objective: Denoising, options: dict[str, Any], batch: Batch, draw: Draw
) -> None:
    family: Any = Fake(**options)
    mask = torch.zeros(3, 1, *PIXELS)
    mask[..., : PIXELS[1] // 2] = 1
    whole = objective.at(family, parts("velocity"), batch, draw, 0.5)
    left = objective.at(family, parts("velocity"), masked(batch, mask), draw, 0.5)
    right = objective.at(family, parts("velocity"), masked(batch, 1 - mask), draw, 0.5)
    torch.testing.assert_close((left + right) / 2, whole)
    assert not torch.allclose(left, right)


def test_the_recipe_asks_for_their_mean(batch: Batch, draw: Draw) -> None:
    family: Any = Fake()
    mask = torch.zeros(3, 1, *PIXELS)
    mask[..., : PIXELS[1] // 3] = 1
    ours, theirs = (
        Flow(FlowObjective(compat=compat), guidance=1.0).at(
            family, parts("velocity"), masked(batch, mask), draw, 0.5
        )
        for compat in (None, "sd-scripts")  # type: ignore[assignment]
    )
    torch.testing.assert_close(theirs, ours / 3)
