"""What a new family's listing gives it, on one with two CLIP encoders and everything in a single file, as SDXL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from velatura.checkpoints.checkpoint import Checkpoint
from velatura.checkpoints.opening import open_checkpoint
from velatura.checkpoints.text_keys import clip_config, clip_text_encoder
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import ModelError
from velatura.families.flux_files import FLUX
from velatura.families.listing import Listing, read_headers
from velatura.families.sd1_files import SD1
from velatura.families.text import CLIP, TextPlace
from velatura.interfaces import ModelFiles

from . import models
from .models import same

CPU = torch.device("cpu")
PREFIXES = ("cond_stage_model.transformer.", "second.transformer.")


def second_clip() -> CLIPTextModel:
    config = {**models.clip().config.to_dict(), "hidden_size": 128, "num_attention_heads": 2}
    return models.seeded(lambda: CLIPTextModel(CLIPTextConfig(**config)), 7)


def below(prefix: str, read: Callable[..., Any], *more: Any) -> Callable[[Checkpoint], Any]:
    return lambda checkpoint: read(checkpoint.under(prefix), *more)


def two_clips() -> Listing:
    networks = (
        replace(CLIP, what=what, find=below(prefix, clip_text_encoder, ()), shapes=below(prefix, clip_config))
        for what, prefix in zip(("first CLIP", "second CLIP"), PREFIXES, strict=True)
    )
    return replace(
        SD1,
        pipeline="StableDiffusionXLPipeline",
        text_encoders=tuple(
            TextPlace(
                network=network,
                subfolder=f"text_encoder{number}",
                tokenizer_subfolder=f"tokenizer{number}",
                length=77,
            )
            for network, number in zip(networks, ("", "_2"), strict=True)
        ),
    )


@pytest.fixture
def single(sd1_single: Path, tmp_path: Path) -> Path:
    checkpoint = open_checkpoint(sd1_single)
    tensors: dict[str, Any] = {key: checkpoint.read(key) for key in checkpoint}
    names = {name: f"{PREFIXES[1]}text_model.{name}" for name in second_clip().state_dict()}
    tensors |= {names[name]: tensor for name, tensor in second_clip().state_dict().items()}
    write_safetensors(tmp_path / "both.safetensors", tensors)
    return tmp_path / "both.safetensors"


@pytest.mark.parametrize("key", ["model", "denoiser"])
def test_all_parts_of_a_single_file_are_found(single: Path, key: str) -> None:
    listing = two_clips()
    files = listing.whole(ModelFiles(**{key: str(single)}))
    found = read_headers(listing, files)
    assert (found.text_widths, found.latent_channels, found.latent_scale) == ((64, 128), 4, 2)
    assert found.denoiser["cross_attention_dim"] == 64
    first, second = (
        place.network.load(path, device=CPU, dtype=torch.float32)
        for place, path in zip(listing.text_encoders, listing.paths(files, "text_encoders"), strict=True)
    )
    assert same(first, models.clip())
    assert same(second, second_clip())


def test_the_index_names_every_part() -> None:
    index = two_clips().index("EulerDiscreteScheduler")
    assert index["_class_name"] == "StableDiffusionXLPipeline"
    assert index["text_encoder_2"] == ["transformers", "CLIPTextModel"]
    assert index["tokenizer_2"] == ["transformers", "CLIPTokenizer"]
    assert index["scheduler"] == ["diffusers", "EulerDiscreteScheduler"]
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert index["safety_checker"] == [None, None]


def test_text_encoders_come_in_the_listings_order(flux_singles: Path, flux_folder: Path) -> None:
    clip, t5 = (flux_singles / f"{name}.safetensors" for name in ("clip_l", "t5xxl"))
    folder = flux_folder / "text_encoder_2"
    for given, expected in (
        ((clip, t5), [clip, t5]),
        ((t5, clip), [clip, t5]),
        ((folder, clip), [clip, folder]),
        ((t5, folder), [folder, t5]),  # no CLIP: what is left goes there, and is refused when it is read
    ):
        files = ModelFiles(text_encoders=tuple(map(str, given)))
        assert FLUX.paths(files, "text_encoders") == expected
    with pytest.raises(ModelError, match="wants 2 files or folders, received 3"):
        FLUX.paths(ModelFiles(text_encoders=(str(clip), str(t5), str(t5))), "text_encoders")
    # two of one kind cannot be told apart: as given
    files = ModelFiles(text_encoders=(str(clip), str(flux_folder / "text_encoder")))
    assert two_clips().paths(files, "text_encoders") == [clip, flux_folder / "text_encoder"]
