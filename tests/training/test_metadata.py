"""What a trained file says about itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from velatura.checkpoints.reader import TensorFile
from velatura.errors import NumericError

from ..tiny import write_pictures
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
        "ss_total_batch_size": "4",
        "ss_max_train_steps": "3",
        "ss_epoch": "2",  # an epoch is three micro-batches, 1.5 steps
        "ss_num_epochs": "2",
        "ss_num_batches_per_epoch": "3",
        "ss_num_reg_images": "0",
        "ss_num_validation_images": "0",
        "ss_unet_lr": "0.002",
        "ss_lr_scheduler": "cosine",
        "ss_optimizer": "torch.optim.adamw.AdamW(weight_decay=0.01,betas=(0.9, 0.999),eps=1e-08)",
        "ss_max_grad_norm": "1.0",
        "ss_seed": "3",
        "ss_gradient_checkpointing": "False",
        "ss_cache_latents": "True",
        "ss_fp8_base": "False",
        "ss_loss_type": "l2",
        "ss_timestep_sampling": "flux_shift",
        "ss_sigmoid_scale": "1.0",
        "ss_weighting_scheme": "none",
        "ss_model_prediction_type": "raw",
        "ss_resolution": "(64, 64)",
        "ss_enable_bucket": "True",
        "ss_flip_aug": "False",
        "ss_keep_tokens": "0",
        "ss_caption_dropout_rate": "0.0",
        "modelspec.title": "my-cube",
        "modelspec.resolution": "64x64",
        "modelspec.trigger_phrase": "sks cube",
    }
    assert {key: said.get(key) for key in expected} == expected
    assert said["modelspec.architecture"].endswith("/lora")
    assert json.loads(said["ss_dataset_dirs"]) == {"photos": {"n_repeats": 1, "img_count": 6}}
    assert json.loads(said["ss_reg_dataset_dirs"]) == {}
    tags = json.loads(said["ss_tag_frequency"])["photos"]
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


def test_buckets_in_sd_scripts_form(run: Train) -> None:
    """Four pictures of 64x64, and two of 96x48 trained at 80x48: ratio 1.667 for 2."""
    said = metadata(run(training={"steps": 1}, data={"repeats": 2}).outcome.files[0])
    found = json.loads(said["ss_bucket_info"])
    assert found["buckets"] == {
        "0": {"resolution": [64, 64], "count": 8},
        "1": {"resolution": [80, 48], "count": 4},
    }
    assert found["mean_img_ar_error"] == pytest.approx((2 - 80 / 48) * 2 / 6)
    assert said["ss_num_train_images"] == "12"  # repeats count, as there
    assert json.loads(said["ss_dataset_dirs"]) == {"photos": {"n_repeats": 2, "img_count": 6}}


def test_regularisation_images_are_counted_apart_and_what_differs_has_no_value(
    run: Train, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "class", [(64, 64)] * 2)
    data = [{"flip": 0.5}, {"folder": str(tmp_path / "class"), "regularisation": True, "weight": 0.5}]
    more = {"folder": str(tmp_path / "photos"), "flip": 0.0}
    said = metadata(run(training={"steps": 1}, data=[*data, more]).outcome.files[0])
    assert (said["ss_num_train_images"], said["ss_num_reg_images"]) == ("12", "12")
    assert said["ss_prior_loss_weight"] == "0.5"
    assert json.loads(said["ss_reg_dataset_dirs"])["class"]["img_count"] == 2
    assert "ss_flip_aug" not in said


def test_several_resolutions_are_no_width_and_height(run: Train) -> None:
    one = run(into="one", training={"steps": 1}, data={"resolution": [64]})
    two = run(into="two", training={"steps": 1}, data={"resolution": [64, 48]})
    size = run(into="size", training={"steps": 1}, data={"size": [64, 48]})
    said = [metadata(found.outcome.files[0]).get("ss_resolution") for found in (one, two, size)]
    assert said == ["(64, 64)", None, "(64, 48)"]


def test_models_go_by_name_and_hash_and_no_path_is_told(run: Train, tiny_model: Path) -> None:
    file = tiny_model / "transformer" / "diffusion_pytorch_model.safetensors"
    said = metadata(run(training={"steps": 1}, model={"denoiser": str(file)}).outcome.files[0])
    content = file.read_bytes()
    assert said["ss_sd_model_name"] == file.name
    assert said["ss_new_sd_model_hash"] == hashlib.sha256(content).hexdigest()
    assert said["ss_sd_model_hash"] == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    folder = metadata(run(into="other", training={"steps": 1}).outcome.files[0])
    assert folder["ss_sd_model_name"] == tiny_model.name
    assert "ss_new_sd_model_hash" not in folder
    assert not [key for key, value in {**said, **folder}.items() if str(tiny_model.parent) in value]


def test_a_value_that_the_files_dtype_cannot_hold_is_refused_before_a_file_is_there(
    run: Train, tmp_path: Path
) -> None:
    run(training={"steps": 1}, previews={"every": 1000})
    (first,) = (tmp_path / "runs" / "tiny" / "adapters").glob("*.safetensors")
    tensors = load_file(first)
    tensors[next(name for name in tensors if "down" in name)].view(-1)[0] = 1e5
    save_file(tensors, tmp_path / "large.safetensors")
    with pytest.raises(NumericError, match="fp16 ends at 65504. Use bf16 or fp32 instead"):
        run(
            name="again",
            training={"steps": 1},
            adapter={"init_from": str(tmp_path / "large.safetensors")},
            output={"save_dtype": "fp16"},
            previews={"every": 1000},
        )
    assert not list((tmp_path / "runs" / "again" / "adapters").glob("*"))
