"""Stable Diffusion 1.x through the same trainer, previews, LoRA files and pipeline as every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from velatura.adapters.files import read_adapter
from velatura.checkpoints.opening import open_checkpoint
from velatura.events import Events
from velatura.placement.recompute import Policy
from velatura.recipe.defaults import fill_in
from velatura.recipe.recipe import Recipe
from velatura.recipe.training.loop import Full
from velatura.recipe.training.optimizer import Optimizer
from velatura.sampling.pipeline import Pipeline
from velatura.training.run import train


def recipe(base: Path, model: Path, **changes: Any) -> Recipe:
    table: dict[str, Any] = {
        "name": "tiny",
        "model": {"model": str(model)},
        "data": [{"folder": str(base / "photos"), "resolution": 16}],
        "adapter": {"rank": 2},
        "optimizer": {"learning_rate": 0.05},
        "training": {"steps": 3, "batch_size": 2, "precision": "fp32", "compile": False, **changes},
        "previews": {"prompts": ["a red cube"], "steps": 2, "cfg": 2.0},
        "output": {"folder": str(base / "runs"), "save_dtype": "fp32", "formats": ["kohya", "diffusers"]},
    }
    assert not fill_in(table, base)
    assert table["objective"]["kind"] == "diffusion"
    assert table["model"]["family"] == "sd1"
    return Recipe.model_validate(table)


def photos(folder: Path) -> None:
    folder.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a red cube")


def test_whole_parts_are_trained_in_bf16(tmp_path: Path, sd1_folder: Path) -> None:
    photos(tmp_path / "photos")
    wanted = recipe(tmp_path, sd1_folder, precision="bf16").model_copy(
        update={
            "adapter": None,
            "full": Full(parts=["denoiser", "text_encoders"], weights="bf16"),
            "optimizer": Optimizer(kind="adamw8bit", clip=0, fused_backward=True),
        }
    )
    assert train(wanted, tmp_path, events=Events()).step == 3


@pytest.mark.parametrize("checkpoint_blocks", [False, True, "mlp"])
def test_a_lora_is_trained_shown_saved_and_painted_with(
    tmp_path: Path, sd1_folder: Path, checkpoint_blocks: Policy
) -> None:
    photos(tmp_path / "photos")
    wanted = recipe(tmp_path, sd1_folder, checkpoint_blocks=checkpoint_blocks)
    outcome = train(wanted, tmp_path, events=Events())
    assert (outcome.exit_code, outcome.step) == (0, 3)
    assert len(list((tmp_path / "runs" / "tiny" / "previews").rglob("*.png"))) >= 2  # before and after

    kohya, split = sorted(outcome.files, key=lambda path: "diffusers" in path.name)
    checkpoint = open_checkpoint(kohya)
    # one transformer down, one in the middle, two up, of 10 linear layers; down, up and alpha
    assert len(checkpoint) == 4 * 10 * 3
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight" in checkpoint
    assert checkpoint.metadata["ss_base_model_version"] == "sd_v1"
    a, b = (read_adapter(path)["denoiser"] for path in (kohya, split))
    assert a.keys() == b.keys()
    assert all((a[name].up == b[name].up).all() for name in a)

    pipeline = Pipeline.load(str(sd1_folder), device="cpu", precision="fp32")
    before, after, again = _painted_with(pipeline, kohya)
    assert np.abs(before - after).max() > 3
    assert np.array_equal(before, again)


def _painted_with(pipeline: Pipeline, lora: Path) -> tuple[Any, Any, Any]:
    options = {"width": 16, "height": 16, "steps": 2}
    before = pipeline("a red cube", **options)[0]
    pipeline.add_lora(lora)
    after = pipeline("a red cube", **options)[0]
    pipeline.remove_loras()
    again = pipeline("a red cube", **options)[0]
    return tuple(np.asarray(image).astype(int) for image in (before, after, again))  # type: ignore[return-value]
