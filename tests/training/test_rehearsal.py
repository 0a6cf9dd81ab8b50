"""A dry run refuses what would stop the run's set-up, and says what the run would train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from velatura.adapters.attach import put_on_fresh
from velatura.adapters.files import write_adapter
from velatura.adapters.targets import choose
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import CheckpointError, ModelError, RecipeError, StorageError, VelaturaError

from ..tiny import load, write_flux
from .conftest import Train, tensors


@pytest.fixture
def model(tmp_path: Path, tiny_model: Path) -> Path:
    """A copy of the tiny FLUX that may be damaged."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def a_lora(model: Path, file: Path, rank: int = 3) -> Path:
    family, parts = load(model)
    assert parts.denoiser is not None
    targets = choose(family.targets(parts.denoiser), ["mlp"]).targets
    adapter = put_on_fresh(parts.denoiser, targets, rank=rank, alpha=rank, seed=5)
    for layer in adapter.layers.values():
        layer.up.data.fill_(0.1)
    write_adapter(file, adapter, split=True, layout="kohya", dtype=torch.float32, metadata={})
    return file


def refused_alike(run: Train, kind: type[VelaturaError], message: str, **sections: Any) -> None:
    """The dry run fails as the run does."""
    said = []
    for dry_run in (True, False):
        with pytest.raises(kind, match=message) as caught:
            run(dry_run=dry_run, **sections)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_tokenizers_must_be_there(run: Train, model: Path) -> None:
    shutil.rmtree(model / "tokenizer_2")
    refused_alike(run, ModelError, "holds no t5 tokenizer", model={"model": str(model)})


def test_tokenizers_must_be_readable(run: Train, model: Path) -> None:
    (model / "tokenizer" / "tokenizer.json").write_text("{broken")
    refused_alike(run, ModelError, "the clip tokenizer in .* cannot be read", model={"model": str(model)})


def test_tokenizers_must_belong_to_their_encoders(run: Train, model: Path) -> None:
    file = model / "tokenizer_2" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] = content["model"]["vocab"][:80]
    file.write_text(json.dumps(content))
    message = r"the tokenizer has \d+ pieces and the T5 text encoder an embedding of 116: they do not belong"
    refused_alike(run, ModelError, message, model={"model": str(model)})


@pytest.mark.parametrize(
    ("file", "gone", "what"),
    [
        ("transformer/diffusion_pytorch_model", "norm_out.linear.weight", "FLUX denoiser"),
        ("vae/diffusion_pytorch_model", "decoder.conv_out.weight", "autoencoder"),
        ("text_encoder_2/model", "encoder.final_layer_norm.weight", "T5 text encoder"),
    ],
)
def test_weights_must_be_complete(run: Train, model: Path, file: str, gone: str, what: str) -> None:
    path = model / f"{file}.safetensors"
    kept = tensors(path)
    del kept[gone]
    write_safetensors(path, kept, {"format": "pt"})
    refused_alike(
        run, ModelError, f"does not fit the {what}: 1 tensor is missing", model={"model": str(model)}
    )


def test_a_lora_to_go_on_with_must_fit(run: Train, tmp_path: Path, tiny_model: Path) -> None:
    wide = write_flux(tmp_path / "wide", transformer={"num_attention_heads": 2})
    file = a_lora(wide, tmp_path / "wide.safetensors")
    refused_alike(
        run, CheckpointError, f"adapter.init_from: {file}: .* it was made for another model", adapter={"init_from": str(file)}
    )  # fmt: skip
    other = tiny_model / "vae" / "diffusion_pytorch_model.safetensors"
    refused_alike(
        run, ModelError, "looks like an image autoencoder .*; a LoRA was wanted", adapter={"init_from": str(other)}
    )  # fmt: skip


def test_the_plan_of_a_lora_that_is_continued_is_the_loras_own(
    run: Train, tmp_path: Path, tiny_model: Path
) -> None:
    """Not that of `targets` and `rank`, which do not count then."""
    file = a_lora(tiny_model, tmp_path / "start.safetensors", rank=2)
    said = run(dry_run=True, adapter={"init_from": str(file)}).log.texts
    d = 32
    double = 2 * 2 * (d + 4 * d)
    single = (d + 4 * d) + (5 * d + d)  # MLP in, and the projection out
    assert f"8 layers continued from {file}, {2 * (double + 2 * single):,} values" in said


def test_patterns_must_match(run: Train) -> None:
    refused_alike(
        run, RecipeError, r"full.only = 'no.such.\*' matches no weight", full={"parts": ["denoiser"], "only": "no.such.*"}
    )  # fmt: skip
    refused_alike(run, RecipeError, "'no.such' matches no layer", adapter={"targets": ["mlp", "no.such"]})
    said = run(dry_run=True, full={"parts": ["denoiser"], "only": "proj_out.*"}).log.texts
    assert f"trained: {64 * 32 + 64:,} weights of denoiser" in said


def test_weights_that_are_drawn_need_no_file(run: Train, model: Path) -> None:
    for file in model.glob("*/*.safetensors"):
        if file.parent.name != "vae":
            file.unlink()
    sections: dict[str, Any] = {
        "model": {"model": str(model), "from_scratch": ["denoiser", "text_encoders"]},
        "full": {"parts": ["denoiser", "text_encoders"]},
    }
    said = run(dry_run=True, **sections).log.texts
    assert "weights of denoiser, text_encoders" in said
    shutil.rmtree(model / "tokenizer")
    refused_alike(run, ModelError, "holds no clip tokenizer", **sections)


def test_an_autoencoder_alone_needs_nothing_else(run: Train, model: Path) -> None:
    shutil.rmtree(model / "tokenizer")
    said = run(dry_run=True, model={"model": str(model)}, full={"parts": ["autoencoder"]}).log.texts
    assert "weights of autoencoder" in said


def test_the_folder_of_another_run_is_refused(run: Train) -> None:
    run(training={"steps": 1})
    with pytest.raises(RecipeError, match="already holds a run. Go on with it: --resume"):
        run(dry_run=True, training={"steps": 1})
    assert run(dry_run=True, resume=True, training={"steps": 2}).outcome.exit_code == 0
    with pytest.raises(RecipeError, match="would not be the same run"):
        run(dry_run=True, resume=True, adapter={"rank": 5})


def test_a_damaged_state_is_told(run: Train) -> None:
    first = run(training={"steps": 2, "save_every": 1})
    (first.folder / "state" / "000002" / "manifest.json").write_text("{")
    said = run(dry_run=True, resume=True, training={"steps": 2, "save_every": 1}).log.texts
    assert "state 2 is damaged and is skipped" in said
    assert "resume: after step 1" in said


def test_a_folder_that_cannot_be_made_is_refused(run: Train, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for into, where in (("taken", "taken"), ("taken/deeper", "taken")):
        with pytest.raises(StorageError, match=f"cannot write in .*: .*{where} is a file. Choose another"):
            run(dry_run=True, into=into)


def test_a_full_disk_is_told(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil._ntuple_diskusage(10**9, 10**9, 1000)
    monkeypatch.setattr("velatura.data.caches.cache_place.shutil.disk_usage", lambda _: free)
    with pytest.raises(StorageError, match="the latents of 6 images need .* where 0.0 MiB are free"):
        run(dry_run=True)


def test_cut_captions_and_lost_options_are_told(run: Train, photos: Path) -> None:
    (photos / "00.txt").write_text(" ".join(["cube"] * 60))
    said = run(dry_run=True, previews={"prompts": ["a cube --n ugly"]}).log.texts
    assert "too long for T5, which reads 28 tokens: 1 of 6 captions" in said
    assert "preview 1: the negative prompt has no effect at cfg = 1" in said


def test_one_of_all(run: Train, photos: Path) -> None:
    for file in sorted(photos.iterdir())[2:]:
        file.unlink()
    said = run(dry_run=True, training={"steps": 1}, previews={"prompts": ["a"]}).log.texts
    for line in (
        "1 image, 1 use per epoch (64x64: 1), 1 step per epoch",
        "steps: 1 of 1 image, 1.00 epochs, about 1 image seen",
        "latents: 1 of 1 image to be encoded",
        "previews: 1 prompt, 64x64",
    ):
        assert line in said
