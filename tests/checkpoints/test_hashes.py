from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from velatura.checkpoints.checkpoint import TensorDict
from velatura.checkpoints.hashes import file_sha256, legacy_file_hash, sshs_hashes
from velatura.checkpoints.lora_file import read_lora, write_lora
from velatura.checkpoints.lora_metadata import lora_metadata
from velatura.checkpoints.pending import Pending
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import CheckpointError


@pytest.mark.parametrize(
    "count", [10, 300_000, 2_000_000]
)  # the legacy range is beyond, across and within the file
def test_sshs_hashes_are_those_of_the_serialised_file(count: int) -> None:
    """As sd-scripts does it: serialise with the ss_ metadata alone, hash the bytes."""
    torch.manual_seed(0)
    tensors = {"a": torch.randn(count), "b": torch.randn(7).half()}
    whole = save(tensors, {"ss_x": "1"})
    payload = whole[8 + int.from_bytes(whole[:8], "little") :]
    found = sshs_hashes(tensors, {"ss_x": "1", "modelspec.title": "anything"})
    assert found["sshs_model_hash"] == hashlib.sha256(payload).hexdigest()
    assert found["sshs_legacy_hash"] == hashlib.sha256(whole[0x100000:0x110000]).hexdigest()[:8]
    lazy = {"a": Pending(shape=(count,), dtype=torch.float32, make=lambda: tensors["a"]), "b": tensors["b"]}
    assert sshs_hashes(lazy, {"ss_x": "1"}) == found


def test_file_hashes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": torch.randn(600_000)}, {"ss_x": "1"})
    content = path.read_bytes()
    assert file_sha256(path) == hashlib.sha256(content).hexdigest()
    assert legacy_file_hash(path) == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]


def test_written_lora_carries_its_own_hash(tmp_path: Path) -> None:
    stem = "lora_unet_double_blocks_0_img_attn_proj"
    values = {f"{stem}.lora_down.weight": torch.randn(2, 4), f"{stem}.lora_up.weight": torch.randn(4, 2)}
    metadata = lora_metadata(
        architecture="flux-1-dev",
        title="my dog",
        rank=2,
        alpha=1.0,
        resolution=(1024, 768),
        tags=["dog", "photo"],
        training={
            "num_epochs": 3,
            "tag_frequency": {"dog": {"a dog": 2}},
            "cache_latents": True,
            "lr_scheduler": None,
        },
    )
    assert metadata == {
        "ss_v2": "False",
        "ss_base_model_version": "flux1",
        "ss_network_module": "networks.lora_flux",
        "ss_network_dim": "2",
        "ss_network_alpha": "1.0",
        "ss_network_args": "{}",
        "ss_num_epochs": "3",
        "ss_tag_frequency": '{"dog": {"a dog": 2}}',
        "ss_cache_latents": "True",
        "ss_lr_scheduler": "None",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "flux-1-dev/lora",
        "modelspec.implementation": "https://github.com/black-forest-labs/flux",
        "modelspec.title": "my dog",
        "modelspec.resolution": "1024x768",
        "modelspec.tags": "dog,photo",
    }
    lora = read_lora(TensorDict(values, metadata=metadata))
    path = tmp_path / "x.safetensors"
    written = write_lora(path, lora, "kohya")
    content = path.read_bytes()
    payload = content[8 + int.from_bytes(content[:8], "little") :]
    assert written["sshs_model_hash"] == hashlib.sha256(payload).hexdigest()
    again = read_lora(path)
    assert again.metadata == written
    first = path.read_bytes()
    write_lora(path, again, "kohya")
    assert path.read_bytes() == first


def test_unknown_architecture() -> None:
    with pytest.raises(CheckpointError, match="No architecture 'flux'"):
        lora_metadata(architecture="flux", title="x", rank=None, alpha=None)
