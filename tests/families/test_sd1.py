from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from tests.placement.simulated import SimulatedLink

from velatura.adapters.attach import put_on_fresh
from velatura.draws import Draw
from velatura.errors import ModelError
from velatura.families.sd1 import Sd1Family
from velatura.interfaces import PARTS, Batch, ModelFiles, Parts, Prompt
from velatura.objectives.diffusion import Diffusion
from velatura.placement.place import place
from velatura.placement.recompute import Policy, recompute
from velatura.recipe.objectives.diffusion import DiffusionObjective

from .models import unet

CPU = torch.device("cpu")


@pytest.fixture
def family() -> Sd1Family:
    return Sd1Family()


@pytest.fixture
def parts(family: Sd1Family, sd1_folder: Path) -> Parts:
    return family.load(ModelFiles(model=str(sd1_folder)), PARTS, device=CPU, dtype=torch.float32)


def batch(count: int = 2) -> Batch:
    latents = torch.randn(count, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    return Batch(
        names=tuple(f"{i}.png" for i in range(count)),
        prompts=(Prompt(text="a red cube"), Prompt(text=""))[:count],
        weights=torch.ones(count),
        slots=tuple(range(count)),
        latents=latents,
    )


def test_prediction_equals_the_unet_of_diffusers(family: Sd1Family, parts: Parts) -> None:
    latents = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    conditioning = family.encode(parts, [Prompt(text="a red cube"), Prompt(text="")])
    k = torch.tensor([17, 998])
    expected = unet()(latents, k, conditioning.tensors["text"]).sample
    found = family.predict(parts, latents, k / 999, conditioning)
    assert expected.abs().mean() > 0.05
    assert torch.equal(found, expected)


def test_encode_equals_diffusers(family: Sd1Family, parts: Parts, sd1_folder: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(sd1_folder)
    text, negative = pipe.encode_prompt("a large red cube", CPU, 1, True, negative_prompt="blurry")
    found = family.encode(parts, [Prompt(text="a large red cube"), Prompt(text="blurry")]).tensors["text"]
    torch.testing.assert_close(found, torch.cat((text, negative)), atol=1e-6, rtol=0)
    ((count, most),) = family.token_counts(parts, "red " * 50)
    assert count > most == min(parts.tokenizers[0].model_max_length, 77)


def test_latents_are_scaled_and_shown_again(family: Sd1Family, parts: Parts) -> None:
    images = torch.rand(2, 3, 16, 12) * 2 - 1
    latents = family.encode_image(parts, images)
    plain = parts.autoencoder.encode(images).latent_dist.mean
    torch.testing.assert_close(latents, plain * 0.18215)
    torch.testing.assert_close(family.decode_latents(parts, latents), parts.autoencoder.decode(plain).sample)
    assert family.tokens(latents) == 8 * 6


def test_a_lora_step_and_recompute_give_the_same_gradients(family: Sd1Family, parts: Parts) -> None:
    assert parts.denoiser is not None
    chosen = [t for t in family.targets(parts.denoiser) if t.group in ("attention", "mlp")]
    adapter = put_on_fresh(parts.denoiser, chosen, rank=2, alpha=2, seed=0)
    objective = Diffusion(DiffusionObjective(kind="diffusion"))

    def gradients() -> list[torch.Tensor]:
        draw = Draw.of(0, step=1, slots=2)
        (loss,) = objective.losses(family, parts, batch(), draw)
        assert loss.per_item.shape == (2,)
        return list(torch.autograd.grad(loss.per_item.sum(), list(adapter.parameters().values())))

    plain = gradients()
    # B starts at zero: then A has no gradient and each B has one
    for name, gradient in zip(adapter.parameters(), plain, strict=True):
        assert bool(gradient.any()) == name.endswith(".up"), name
    recompute(family.blocks(parts.denoiser))
    for again, before in zip(gradients(), plain, strict=True):
        assert torch.equal(again, before)


@pytest.mark.parametrize("policy", [False, "mlp", True])
def test_streamed_is_resident_bit_for_bit(sd1_folder: Path, policy: Policy) -> None:
    gradients = []
    for share in (0.0, 1.0):
        family = Sd1Family()
        parts = family.load(ModelFiles(model=str(sd1_folder)), PARTS, device=CPU, dtype=torch.float32)
        assert parts.denoiser is not None
        chosen = [t for t in family.targets(parts.denoiser) if t.group in ("attention", "mlp")]
        adapter = put_on_fresh(parts.denoiser, chosen, rank=2, alpha=2, seed=0)
        placed = place(
            parts.denoiser,
            family.blocks(parts.denoiser),
            (),
            share=share,
            device=CPU,
            link=SimulatedLink(1e9),
            policy=policy,
            feed_forwards=family.feed_forwards(parts.denoiser),
        )
        assert bool(placed.host) == bool(share)
        objective = Diffusion(DiffusionObjective(kind="diffusion"))
        for step in range(2):
            draw = Draw.of(0, step=step, slots=2)
            (loss,) = objective.losses(family, parts, batch(), draw)
            loss.per_item.sum().backward()
        gradients.append([parameter.grad for parameter in adapter.parameters().values()])
    assert all(map(torch.equal, *gradients))
    assert any(bool(gradient.any()) for gradient in gradients[0])


def test_v_prediction_as_the_config_or_the_recipe_says(sd1_folder: Path) -> None:
    files = ModelFiles(model=str(sd1_folder))
    assert Sd1Family().inspect(files).prediction == "noise"
    info = Sd1Family(prediction="v").inspect(files)
    assert (info.prediction, info.variant) == ("v", "1.x-v")
    assert (info.defaults.steps, info.defaults.cfg, info.defaults.size) == (25, 7.5, 24)


def test_parts_that_are_not_loaded(family: Sd1Family, parts: Parts) -> None:
    bare = Parts(info=parts.info)
    with pytest.raises(ModelError, match="needs the text encoders, not loaded"):
        family.encode(bare, [Prompt(text="a")])
    with pytest.raises(ModelError, match="needs the autoencoder, not loaded"):
        family.encode_image(bare, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ModelError, match="needs the tokenizers, not loaded"):
        family.token_counts(bare, "a")
