"""A step over one batch, and over the same items in micro-batches: the same update, on the tiny FLUX itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from velatura.adapters.attach import put_on_fresh
from velatura.adapters.targets import choose
from velatura.draws import Draw
from velatura.interfaces import Batch, Prompt
from velatura.objectives.flow import Flow
from velatura.recipe.objectives.flow import FlowObjective
from velatura.training.health.splitting import Splitter
from velatura.training.step import Stepper
from velatura.training.validation import noise_levels, validation_loss

from ..tiny import CPU, Log, load


def stepper(folder: Path, *, rate: float = 0.05) -> Stepper:
    family, parts = load(folder)
    assert parts.denoiser is not None
    targets = choose(family.targets(parts.denoiser), "sd-scripts").targets
    adapter = put_on_fresh(parts.denoiser, targets, rank=4, alpha=4, seed=0)
    for layer in adapter.layers.values():
        layer.up.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    parameters = list(adapter.parameters().values())
    return Stepper(
        family=family,
        parts=parts,
        objective=Flow(FlowObjective(), guidance=1.0),
        optimizer=torch.optim.SGD(parameters, lr=rate),
        parameters=parameters,
        clip=0.5,
        device=CPU,
        dtype=torch.float32,
        autocast=False,
    )


def batch(chosen: Stepper, slots: Sequence[int], weights: Sequence[float]) -> Batch:
    """The items at these slots of a step: latents and captions belong to the slot."""
    draw = Draw.of(7, slots=slots)
    prompts = tuple(Prompt(text=f"a red cube number {slot}") for slot in slots)
    with torch.no_grad():
        conditioning = chosen.family.encode(chosen.parts, prompts)
    return Batch(
        names=tuple(f"{slot}.png" for slot in slots),
        prompts=prompts,
        weights=torch.tensor(weights),
        slots=tuple(slots),
        latents=draw.normal("latents", (16, 4, 4)),
        conditioning=conditioning,
    )


def updated(folder: Path, groups: Sequence[Sequence[int]]) -> tuple[float, float, list[Tensor]]:
    """Loss, gradient norm and values after a step over micro-batches of these slots; slot k weighs 1 + k / 2."""
    chosen = stepper(folder)
    batches = [batch(chosen, slots, [1 + slot / 2 for slot in slots]) for slots in groups]
    result = chosen(batches, seed=3, step=5)
    return result.loss, result.grad_norm, [parameter.detach().clone() for parameter in chosen.parameters]


@pytest.mark.parametrize(
    "groups", [[[0, 1], [2, 3]], [[0], [1, 2, 3]], [[3, 1], [0], [2]], [[2], [0], [3], [1]]]
)
def test_micro_batches_of_any_size_make_one_batch(tiny_model: Path, groups: list[list[int]]) -> None:
    before = [parameter.detach().clone() for parameter in stepper(tiny_model).parameters]
    loss, norm, values = updated(tiny_model, [[0, 1, 2, 3]])
    other_loss, other_norm, others = updated(tiny_model, groups)
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert other_norm == pytest.approx(norm, rel=1e-5)
    moved = [float((a - b).abs().max()) for a, b in zip(before, values, strict=True)]
    assert max(moved) > 1e-3
    for one, other in zip(values, others, strict=True):
        assert float((one - other).abs().max()) < 1e-6


def test_processes_with_a_share_of_the_batch_add_up_to_it(tiny_model: Path) -> None:
    """Each divides by the weight of the whole step; then gradients are summed, as an all-reduce would."""
    whole = stepper(tiny_model)
    slots = [0, 1, 2, 3]
    all_items = batch(whole, slots, [1.0] * 4)
    parts = []
    for mine in (slots, slots[:1], slots[1:]):
        chosen = stepper(tiny_model)
        share = replace(batch(chosen, mine, [1.0] * len(mine)), total=4.0)
        chosen._accumulate([share], seed=3, step=5)
        parts.append([parameter.grad for parameter in chosen.parameters])
    assert all_items.weights.sum() == 4
    for together, first, second in zip(*parts, strict=True):
        assert together is not None
        assert first is not None
        assert second is not None
        torch.testing.assert_close(first + second, together, rtol=1e-5, atol=1e-7)


def test_noise_levels_lie_evenly_inside() -> None:
    assert noise_levels(4) == [0.125, 0.375, 0.625, 0.875]
    assert noise_levels(1) == [0.5]


@pytest.mark.parametrize("groups", [[[0, 1], [2, 3]], [[0], [1, 2, 3]], [[0], [1], [2], [3]]])
def test_validation_does_not_depend_on_the_batch_size(tiny_model: Path, groups: list[list[int]]) -> None:
    chosen = stepper(tiny_model)
    weights = [1.0, 1.0, 1.0, 1.0]
    whole = validation_loss(chosen, [batch(chosen, [0, 1, 2, 3], weights)], times=3)
    parts = [batch(chosen, slots, weights[: len(slots)]) for slots in groups]
    assert validation_loss(chosen, parts, times=3) == pytest.approx(whole, rel=1e-5)
    assert validation_loss(chosen, parts, times=3) == validation_loss(chosen, parts, times=3)
    assert validation_loss(chosen, parts[:1], times=3) != pytest.approx(whole, rel=1e-3)


def test_validation_makes_its_passes_as_training_does(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is split to fit is not whole for validation."""
    chosen, sizes = stepper(tiny_model), []
    all_of_them = batch(chosen, [0, 1, 2, 3, 4], [1.0, 2.0, 1.0, 1.0, 3.0])
    whole = validation_loss(chosen, [all_of_them], times=2)
    predict = chosen.family.predict

    def noted(parts: Any, latents: Tensor, *args: Any, **options: Any) -> Tensor:
        sizes.append(len(latents))
        return predict(parts, latents, *args, **options)

    monkeypatch.setattr(chosen.family, "predict", noted)
    chosen.splitter = Splitter(events=Log().events, scale=8, limit=2)
    assert validation_loss(chosen, [all_of_them], times=2) == pytest.approx(whole, rel=1e-5)
    assert sizes == [1, 1, 2, 2, 2, 2]


def test_validation_by_hand(tiny_model: Path) -> None:
    """The mean over items and over t = 1/4 and 3/4 of the squared velocity error, with noise of seed 1, step 0."""
    chosen = stepper(tiny_model)
    item = batch(chosen, [0, 1], [1.0, 1.0])
    assert item.latents is not None
    assert item.conditioning is not None
    noise = Draw.of(1, slots=2).normal("noise", (16, 4, 4))
    errors = []
    with torch.no_grad():
        for t in (0.25, 0.75):
            noisy = (1 - t) * item.latents + t * noise
            velocity = chosen.family.predict(chosen.parts, noisy, torch.full((2,), t), item.conditioning)
            errors.append((velocity - noise + item.latents).square().mean())
    assert validation_loss(chosen, [item], times=2) == pytest.approx(float(sum(errors)) / 2, rel=1e-5)
