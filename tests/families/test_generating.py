"""`generate` on the tiny FLUX: what is repeated, what is refused, what is warned of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from velatura.adapters.attach import put_on_fresh
from velatura.adapters.files import write_adapter
from velatura.errors import ModelError, RecipeError
from velatura.events import Event, Events, Notice
from velatura.families.flux_targets import flux_targets
from velatura.recipe.families.flux import FluxModel
from velatura.sampling.generate import generate
from velatura.sampling.order import Order
from velatura.sampling.pipeline import Pipeline
from velatura.sampling.png import read_record

from .models import flux


def order(out: Path, model: Path) -> Order:
    return Order(out=out, model=str(model), prompt="a red cube", size=(24, 24), steps=2, device="cpu")


def lora(path: Path, seed: int) -> Path:
    model = flux(guidance=True)
    targets = [t for t in flux_targets(model) if t.group == "mlp" and t.shares is None]
    adapter = put_on_fresh(model, targets, rank=2, alpha=2, seed=seed)
    for parameter in adapter.parameters().values():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
    write_adapter(path, adapter, split=True, layout="kohya", dtype=torch.float32, metadata={})
    return path


def test_like_repeats_one_of_a_batch_with_its_lora(flux_folder: Path, tmp_path: Path) -> None:
    file = lora(tmp_path / "a.safetensors", 1)
    wanted = replace(order(tmp_path / "x.png", flux_folder), loras=((file, 0.5),), batch=2)
    first, second = generate(wanted, Events())
    again = Order(out=tmp_path / "y.png", like=second.path, device="cpu")
    (picture,) = generate(again, Events())
    assert picture.path.read_bytes() == second.path.read_bytes() != first.path.read_bytes()
    lora(file, 2)
    with pytest.raises(ModelError, match="with the LoRA .*a.safetensors when its hash was"):
        list(generate(again, Events()))
    list(
        generate(replace(again, loras=((lora(tmp_path / "b.safetensors", 3), 1.0),)), Events())
    )  # chosen anew


def test_a_negative_prompt_without_guidance_is_warned_of(flux_folder: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    list(generate(replace(order(tmp_path / "x.png", flux_folder), negative="blurry"), Events(seen.append)))
    (notice,) = (event for event in seen if isinstance(event, Notice))
    assert (notice.level, "no effect at cfg = 1" in notice.message) == ("warning", True)


def test_strength_wants_an_image(flux_folder: Path) -> None:
    pipeline = Pipeline.load(str(flux_folder), device="cpu", precision="fp32")
    with pytest.raises(RecipeError, match=r"strength = 0.5 says how much an input image changes"):
        pipeline("a red cube", strength=0.5, width=24, height=24)


def test_the_record_names_a_recipes_model(flux_folder: Path, tmp_path: Path) -> None:
    section = FluxModel(model=str(flux_folder))
    (picture,) = generate(
        replace(order(tmp_path / "x.png", flux_folder), model=None, section=section), Events()
    )
    assert read_record(picture.path)[1]["model"] == str(flux_folder)


def test_the_sampler_is_named_truly(flux_folder: Path, sd1_folder: Path, tmp_path: Path) -> None:
    for model, name in ((flux_folder, "Euler"), (sd1_folder, "DDIM")):
        (picture,) = generate(order(tmp_path / f"{name}.png", model), Events())
        assert read_record(picture.path)[1]["sampler"] == name
        with Image.open(picture.path) as image:
            assert f"Sampler: {name}," in image.info["parameters"]
