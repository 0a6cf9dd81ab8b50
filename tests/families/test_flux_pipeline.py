"""Painting with FLUX from a folder, against diffusers' own pipelines on the same weights, prompt and noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxImg2ImgPipeline, FluxPipeline
from PIL import Image
from torch import Tensor

from velatura.draws import Draw
from velatura.errors import RecipeError
from velatura.families.flux import pack
from velatura.interfaces import PARTS
from velatura.sampling.painter import as_image, encode_request, paint
from velatura.sampling.pipeline import Pipeline
from velatura.sampling.request import Request

CPU = torch.device("cpu")
WIDTH, HEIGHT = 32, 24
PROMPT = "a large red cube left of a small blue sphere at dusk"


@pytest.fixture(scope="module")
def ours(flux_folder: Path) -> Pipeline:
    return Pipeline.load(str(flux_folder), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def theirs(flux_folder: Path) -> FluxPipeline:
    pipeline = FluxPipeline.from_pretrained(flux_folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def request(**changes: Any) -> Request:
    return Request(prompt=PROMPT, seed=11, width=WIDTH, height=HEIGHT, steps=4, **changes)


def noise(count: int = 1) -> Tensor:
    return Draw.of(11, slots=range(count)).normal("sample", (4, HEIGHT // 2, WIDTH // 2))


def painted(pipeline: Pipeline, wanted: Request, start: Tensor | None = None) -> Tensor:
    """What the Pipeline paints, before it is rounded to 8 bits: `[B, 3, H, W]` in [0, 1]."""
    parts = pipeline.family.load(pipeline.held.files, PARTS, device=CPU, dtype=torch.float32)
    wanted = pipeline.complete(wanted)
    conditioning = encode_request(pipeline.family, parts, wanted)
    latents = paint(pipeline.family, parts, wanted, conditioning, device=CPU, start=start)
    return (pipeline.family.decode_latents(parts, latents) / 2 + 0.5).clamp(0, 1)


def called(pipeline: Any, latents: Tensor, **options: Any) -> Tensor:
    return pipeline(
        PROMPT,
        width=WIDTH,
        height=HEIGHT,
        num_inference_steps=4,
        latents=pack(latents),
        num_images_per_prompt=len(latents),
        max_sequence_length=pipeline.tokenizer_2.model_max_length,
        output_type="pt",
        **options,
    ).images


def levels(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image).astype(int)


def test_the_pipeline_equals_diffusers(ours: Pipeline, theirs: FluxPipeline) -> None:
    expected = called(theirs, noise(2), guidance_scale=3.5)
    found = painted(ours, request(batch=2))
    assert found.std() > 0.02
    assert (found[0] - found[1]).abs().max() > 0.05  # each image has its own noise
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    for image, pixels in zip(ours.paint(request(batch=2)), expected, strict=True):
        assert image.size == (WIDTH, HEIGHT)
        assert np.abs(levels(image) - levels(as_image(pixels * 2 - 1))).max() <= 1


def test_true_guidance_and_negative_prompt(ours: Pipeline, theirs: FluxPipeline) -> None:
    expected = called(theirs, noise(), guidance_scale=2.0, true_cfg_scale=3.0, negative_prompt="a green cone")
    found = painted(ours, request(guidance=2.0, cfg=3.0, negative="a green cone"))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    other = painted(ours, request(guidance=2.0, cfg=3.0, negative="a blue torus"))
    assert (other - found).abs().max() > 1e-3


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image_equals_diffusers(ours: Pipeline, theirs: FluxPipeline, strength: float) -> None:
    """Where steps * strength is whole. Else diffusers' FLUX rounds up; we round down, as its other pipelines."""
    image = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))
    parts = ours.family.load(ours.held.files, ["autoencoder"], device=CPU, dtype=torch.float32)
    start = ours.family.encode_image(parts, image * 2 - 1)
    t = ours.family.schedule.times(4, 48)[round(4 * (1 - strength))]
    pipeline = FluxImg2ImgPipeline(**theirs.components)
    pipeline.set_progress_bar_config(disable=True)
    noisy = (1 - t) * start + t * noise()
    expected = called(pipeline, noisy, image=image, strength=strength, guidance_scale=3.5)
    found = painted(ours, request(strength=strength), start=start)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_image_to_image_by_its_formula(ours: Pipeline) -> None:
    """One step of 8: from (1 - t) image + t noise at the last time, once along the velocity."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    options = {"width": WIDTH, "height": HEIGHT, "steps": 8, "seed": 11}
    found = ours(PROMPT, image=image, strength=0.24, **options)[0]  # 1.92 steps: rounded down
    family, parts = ours.family, ours.parts
    start = family.encode_image(parts, _pixels(image))
    t = family.schedule.times(8, 48)[-2:-1]
    noisy = (1 - t) * start + t * noise()
    conditioning = encode_request(family, parts, Request(prompt=PROMPT, cfg=1.0))
    latents = noisy - t * family.predict(parts, noisy, t, conditioning, guidance=3.5)
    expected = as_image(family.decode_latents(parts, latents)[0])
    assert np.abs(levels(found) - levels(expected)).max() <= 1
    all_new = ours(PROMPT, image=image, strength=1.0, **options)[0]
    assert levels(all_new).tolist() == levels(ours(PROMPT, **options)[0]).tolist()  # t = 1 is noise alone
    with pytest.raises(RecipeError, match="the input image is 32x24 and the picture 24x24"):
        ours(PROMPT, image=image, width=24, height=24)


def test_same_seed_same_picture_whatever_the_batch(ours: Pipeline) -> None:
    options = {"width": WIDTH, "height": HEIGHT, "steps": 2, "seed": 3}
    both = ours(PROMPT, batch=2, **options)
    again = ours.paint(Request(prompt=PROMPT, first=1, **options))
    assert np.abs(levels(both[1]) - levels(again[0])).max() <= 1
    assert levels(ours(PROMPT, **options)[0]).tolist() == levels(ours(PROMPT, **options)[0]).tolist()
    assert np.abs(levels(both[0]) - levels(both[1])).max() > 5


def _pixels(image: Image.Image) -> Tensor:
    array = np.asarray(image, dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(array).permute(2, 0, 1)[None]
