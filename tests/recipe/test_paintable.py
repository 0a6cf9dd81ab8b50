"""Previews that the model cannot paint are mistakes of the recipe, as far as configs tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from velatura.recipe.families.flux import FluxModel
from velatura.recipe.families.sd1 import Sd1Model
from velatura.recipe.paintable import reads_guidance, size_step, unpaintable
from velatura.recipe.problems import InvalidRecipe
from velatura.recipe.toml import load_recipe, parse_recipe

POCKET, SD1 = 'model = "pocket/flux"', 'family = "sd1"\nmodel = "org/name"'
DEV = 'family = "flux"\nmodel = "org/name"'


def wrong(base: Path, model: str, previews: str) -> list[tuple[Any, ...]]:
    """(place, what) of all problems."""
    text = f'name = "a"\n[model]\n{model}\n[[data]]\nfolder = "photos"\n[adapter]\n[previews]\n{previews}\n'
    recipe = parse_recipe(text, base=base)
    return [(problem.path[1:], problem.what) for problem in unpaintable(recipe, base)]


def diffusers_folder(folder: Path, **configs: dict[str, Any]) -> Path:
    for part, config in {"model_index": {"_class_name": "FluxPipeline"}, **configs}.items():
        file = (
            folder / f"{part}.json" if part in ("model_index", "velatura") else folder / part / "config.json"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("model", "step"), [(POCKET, 16), (DEV, 16), (SD1, 8)])
def test_sizes_are_multiples_of_what_the_family_needs(tmp_path: Path, model: str, step: int) -> None:
    good, bad = step * 5, step * 5 + 4
    lines = json.dumps([f"a --w {good} --h {good}", f"b --w {bad}", f"c --h {bad} --w 0", "d"])
    what = f"must be a multiple of {step}, received"
    nearest = f"nearest: {good} or {good + step}"
    assert wrong(tmp_path, model, f"size = {bad}\nprompts = {lines}") == [
        (("size",), f"size {what} {bad}; {nearest}"),
        (("prompts", 1), f"width {what} {bad}; {nearest}"),
        (("prompts", 2), f"width {what} 0; nearest: {step} or {step * 2}"),
        (("prompts", 2), f"height {what} {bad}; {nearest}"),
    ]
    assert wrong(tmp_path, model, f"size = {good}") == []
    assert wrong(tmp_path, model, "prompts = ['a --w 1000000000']") == [
        (("prompts", 0), "width must be at most 16384, received 1000000000")
    ]


def test_an_autoencoder_of_another_scale_tells_its_own(tmp_path: Path) -> None:
    """Two levels: one pixel in two; FLUX has patches of 2 x 2 on top."""
    model = diffusers_folder(tmp_path / "small", vae={"block_out_channels": [8, 16]})
    vae = diffusers_folder(tmp_path / "ae", vae={"block_out_channels": [8, 16, 16]}) / "vae"
    assert size_step(FluxModel(model=str(model)), tmp_path) == 4
    assert size_step(FluxModel(model="small"), tmp_path) == 4  # from the recipe's folder
    assert size_step(FluxModel(model="small", autoencoder="ae"), tmp_path) == 8
    assert size_step(FluxModel(model="small", autoencoder=str(vae)), tmp_path) == 8
    assert size_step(FluxModel(model="small", autoencoder="org/name"), tmp_path) == 16
    assert size_step(Sd1Model(model=str(model)), tmp_path) == 2
    (model / "vae" / "config.json").write_text("[broken")
    assert size_step(FluxModel(model="small"), tmp_path) == 16


def test_guidance_where_it_would_have_no_effect(tmp_path: Path) -> None:
    previews = 'guidance = 2.0\nprompts = ["a --g 3.5", "b", "c --g 0"]'
    for model in (POCKET, SD1):
        assert wrong(tmp_path, model, previews) == [
            (
                ("guidance",),
                "received guidance 2, which would have no effect: this model has no distilled guidance",
            ),
            (
                ("prompts", 0),
                "received guidance 3.5, which would have no effect: this model has no distilled guidance",
            ),
        ]
    assert wrong(tmp_path, DEV, previews) == []  # a hub id: the start of the run tells


def test_guidance_in_training_where_it_would_have_no_effect(tmp_path: Path) -> None:
    def said(model: str, guidance: float) -> list[tuple[Any, ...]]:
        return wrong(tmp_path, f"{model}\nguidance = {guidance}", "")

    dev = diffusers_folder(tmp_path / "dev", transformer={"guidance_embeds": True})
    refused = "received guidance 3.5, which would have no effect: this model has no distilled guidance"
    assert said(POCKET, 3.5) == [(("guidance",), refused)]
    assert said(POCKET, 1.0) == []  # the default, which a resolved recipe names
    assert said(f'model = "{dev}"', 3.5) == []
    assert said(DEV, 3.5) == []  # the start of the run tells


def test_what_configs_tell_of_guidance(tmp_path: Path) -> None:
    dev = diffusers_folder(tmp_path / "dev", transformer={"guidance_embeds": True})
    diffusers_folder(tmp_path / "schnell", transformer={"num_layers": 19})
    assert reads_guidance(FluxModel(model=str(dev)), tmp_path) is True
    assert reads_guidance(FluxModel(model="schnell"), tmp_path) is False
    assert reads_guidance(FluxModel(model="schnell", denoiser="dev/transformer"), tmp_path) is True
    assert reads_guidance(FluxModel(model="schnell", denoiser="dev"), tmp_path) is True
    assert reads_guidance(FluxModel(model="dev", denoiser="x.safetensors"), tmp_path) is None
    assert reads_guidance(FluxModel(model="org/name"), tmp_path) is None
    assert reads_guidance(Sd1Model(model="org/name"), tmp_path) is False


def test_the_models_own_default_is_no_mistake(tmp_path: Path) -> None:
    own = diffusers_folder(
        tmp_path / "own", transformer={"guidance_embeds": False}, velatura={"sampling": {"guidance": 2.0}}
    )
    assert wrong(tmp_path, f'model = "{own}"', "guidance = 2.0") == []
    assert len(wrong(tmp_path, f'model = "{own}"', "guidance = 0.0")) == 1
    shifted = diffusers_folder(tmp_path / "shifted", transformer={"guidance_embeds": False})
    (shifted / "scheduler").mkdir()
    (shifted / "scheduler" / "scheduler_config.json").write_text('{"use_dynamic_shifting": true}')
    assert wrong(tmp_path, f'model = "{shifted}"', "guidance = 3.5") == []


def test_the_loader_tells_them_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    path = tmp_path / "a.toml"
    path.write_text(
        f'name = "a"\n[model]\n{POCKET}\n[[data]]\nfolder = "photos"\n[adapter]\n[previews]\nprompts = ["a --w 100"]\n'
    )
    with pytest.raises(InvalidRecipe) as caught:
        load_recipe(path, ["previews.size=50"])
    message = str(caught.value)
    assert message.startswith(f"{path} has 2 mistakes\n")
    assert (
        "line 8: [previews] prompts[0]\n    width must be a multiple of 16, received 100; nearest: 96 or 112"
        in message
    )
    assert (
        "--set previews.size=50: [previews] size\n    size must be a multiple of 16, received 50" in message
    )
