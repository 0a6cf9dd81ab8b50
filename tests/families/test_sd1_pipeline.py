"""Painting with Stable Diffusion 1.x, against diffusers' pipeline with its DDIM scheduler on the same noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from velatura.draws import Draw
from velatura.interfaces import PARTS
from velatura.recipe.families.sd1 import Sd1Model
from velatura.sampling.painter import encode_request, paint
from velatura.sampling.pipeline import Pipeline
from velatura.sampling.request import Request

CPU = torch.device("cpu")
WIDTH, HEIGHT = 16, 24


@pytest.fixture(scope="module")
def ours(sd1_folder: Path) -> Pipeline:
    return Pipeline.load(str(sd1_folder), device="cpu", precision="fp32")


@pytest.mark.parametrize("cfg", [1.0, 7.5])
def test_images_equal_those_of_diffusers(ours: Pipeline, sd1_folder: Path, cfg: float) -> None:
    request = ours.complete(
        Request(
            prompt="a red cube",
            negative="blurry",
            cfg=cfg,
            width=WIDTH,
            height=HEIGHT,
            steps=5,
            batch=2,
            seed=3,
        )
    )
    parts = ours.family.load(ours.held.files, PARTS, device=CPU, dtype=torch.float32)
    conditioning = encode_request(ours.family, parts, request)
    latents = paint(ours.family, parts, request, conditioning, device=CPU)
    found = (ours.family.decode_latents(parts, latents) / 2 + 0.5).clamp(0, 1)

    pipe = StableDiffusionPipeline.from_pretrained(sd1_folder)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe.set_progress_bar_config(disable=True)
    noise = Draw.of(3, slots=2).normal("sample", (4, HEIGHT // 2, WIDTH // 2))
    expected = pipe(
        "a red cube",
        negative_prompt="blurry" if cfg > 1 else None,
        guidance_scale=cfg,
        width=WIDTH,
        height=HEIGHT,
        num_inference_steps=5,
        num_images_per_prompt=2,
        latents=noise,
        output_type="pt",
    ).images
    assert found.std() > 0.02
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_folder_and_single_file_paint_the_same(ours: Pipeline, sd1_folder: Path, sd1_single: Path) -> None:
    section = Sd1Model(model=str(sd1_single), tokenizers=str(sd1_folder))
    single = Pipeline.load(section, device="cpu", precision="fp32")
    options = {"width": WIDTH, "height": HEIGHT, "steps": 3, "seed": 5}
    (a,), (b,) = ours("a red cube", **options), single("a red cube", **options)
    assert a.size == (WIDTH, HEIGHT)
    assert np.array_equal(np.asarray(a), np.asarray(b))
    assert ours.complete(Request(prompt="")).cfg == 7.5
    with_image = single("a red cube", image=a, strength=0.5, **options)[0]
    assert not np.array_equal(np.asarray(a), np.asarray(with_image))
