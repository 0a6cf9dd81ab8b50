"""What a trained file says about itself."""

from __future__ import annotations

import json
from pathlib import Path

from velatura.checkpoints.reader import TensorFile

from .conftest import Train


def metadata(path: Path) -> dict[str, str]:
    with TensorFile(path) as file:
        return dict(file.metadata)


def test_what_a_lora_says(run: Train) -> None:
    found = run(
        name="my-cube",
        training={"steps": 3, "batch_size": 2, "accumulate": 2},
        adapter={"rank": 4, "alpha": 2.0, "targets": ["attention"]},
        optimizer={"learning_rate": 0.002, "warmup_steps": 1},
        data={"trigger": "sks cube"},
    )
    said = metadata(found.outcome.files[0])
    expected = {
        "ss_base_model_version": "flux1",
        "ss_network_module": "networks.lora_flux",
        "ss_network_dim": "4",
        "ss_network_alpha": "2.0",
        "ss_output_name": "my-cube",
        "ss_learning_rate": "0.002",
        "ss_lr_warmup_steps": "1",
        "ss_steps": "3",
        "ss_num_train_images": "6",
        "ss_batch_size_per_device": "2",
        "ss_gradient_accumulation_steps": "2",
        "ss_mixed_precision": "no",
        "modelspec.title": "my-cube",
        "modelspec.resolution": "64x64",
        "modelspec.trigger_phrase": "sks cube",
    }
    assert {key: said.get(key) for key in expected} == expected
    assert said["modelspec.architecture"].endswith("/lora")
    tags = json.loads(said["ss_tag_frequency"])["my-cube"]
    assert tags["sks cube"] == 6
    assert tags["a red cube number 3"] == 1
    assert "sshs_model_hash" in said
    assert "modelspec.date" not in said  # equal runs give equal files


def test_numbers_of_steps_and_ranks_are_those_of_the_file(run: Train) -> None:
    """Saved at step 2 of 4; rank 64 does not fit layers of width 32, so it is not one number."""
    found = run(training={"steps": 4, "save_every": 2}, adapter={"rank": 64, "targets": ["attention", "mlp"]})
    early = metadata(found.folder / "adapters" / "tiny-000002.safetensors")
    assert (early["ss_steps"], early["ss_max_train_steps"]) == ("2", "4")
    assert early["ss_network_dim"] == "32"
