"""Plans of tiny models, and of FLUX.1-dev without any file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import parse_recipe

from ..families.models import sd1_folder
from ..tiny import write_flux, write_pictures

FLUX_LORA = """
name = "dog"
[model]
family = "flux"
denoiser = "nowhere/flux1-dev.safetensors"
autoencoder = "nowhere/ae.safetensors"
text_encoders = ["nowhere/clip_l.safetensors", "nowhere/t5xxl.safetensors"]
[[data]]
folder = "nowhere/photos"
resolution = 1024
[adapter]
rank = 16
[previews]
prompts = ["a dog"]
"""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FLUX of two double and five single blocks: some of them are left out when it is followed."""
    shape = {"num_layers": 2, "num_single_layers": 5, "num_attention_heads": 2}
    return write_flux(tmp_path_factory.mktemp("planning") / "flux", transformer=shape)


@pytest.fixture(scope="session")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sd1_folder(tmp_path_factory.mktemp("planning") / "sd1")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "photos", [(128, 128)] * 4)


@pytest.fixture
def flux_dev(tmp_path: Path) -> Callable[..., Recipe]:
    """A LoRA for FLUX.1-dev, of which no file is there; with `--set` lines."""

    def made(*sets: str, text: str = FLUX_LORA) -> Recipe:
        return parse_recipe(text, sets=sets, base=tmp_path)

    return made


def sections(**changes: Any) -> dict[str, Any]:
    """Sections of a recipe without previews."""
    return {"previews": {"prompts": []}, "data": {"resolution": 128}, **changes}
