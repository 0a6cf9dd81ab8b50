"""What a whole run reads, writes and says; when it refuses and when it stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from velatura.adapters.attach import put_on_fresh
from velatura.adapters.files import read_adapter, write_adapter
from velatura.adapters.targets import choose
from velatura.checkpoints.reader import TensorFile
from velatura.data.caches.cache import CachedLatents
from velatura.data.views import View
from velatura.errors import DataError, ModelError, NumericError, RecipeError, VelaturaError
from velatura.events import FileSaved, PreviewSaved, StepFinished, ValidationFinished
from velatura.families.flux import FluxFamily
from velatura.interfaces import Posterior
from velatura.recipe.plain_toml import read_toml
from velatura.runs.recipes import in_short

from ..tiny import load
from .conftest import Train, equal, tensors


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_writes_nothing_and_tells_the_plan(
    run: Train, photos: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorFile, "_read_bytes", lambda *_: pytest.fail("a dry run reads no weights"))
    before = snapshot(tmp_path)
    found = run(
        dry_run=True, training={"steps": 30, "batch_size": 2}, previews={"prompts": ["a cat --w 32 --h 48"]}
    )
    assert found.outcome.exit_code == 0
    assert snapshot(tmp_path) == before
    assert not found.folder.exists()
    assert snapshot(own_cache).keys() <= {"index.sqlite"}  # what the scan found
    said = found.log.texts
    # q k v o and two MLP layers of two streams; q k v, MLP in and out of two single blocks
    assert "22 linear layers adapted (14 attention, 8 mlp), 12 modules in a kohya file" in said
    d, rank = 32, 4
    double = 2 * ((d + 3 * d) + 2 * d + 2 * (d + 4 * d))
    single = (d + 7 * d) + (5 * d + d)
    assert f"{rank * (double + 2 * single):,} values" in said
    assert "steps: 30 of 2 x 1 images, 10.00 epochs, about 60 images seen" in said
    assert "6 of 6 images to be encoded" in said
    assert "captions: 7 of 7 texts to be encoded" in said  # six captions, one preview
    assert "previews: 1 prompt, 32x48" in said


def test_a_dry_run_says_how_batches_are_split(run: Train) -> None:
    found = run(dry_run=True, training={"steps": 3, "batch_size": 2}, memory={"micro_batch": 1})
    assert "steps: 3 of 2 x 1 images, at most 1 image in a pass, 1.00 epochs" in found.log.texts


def test_the_plan_knows_what_frozen_weights_take(run: Train, tiny_model: Path) -> None:
    """In float32 four bytes each; in fp8 one byte for the matrices in the blocks."""
    weights = tensors(tiny_model / "transformer" / "diffusion_pytorch_model.safetensors")
    count = sum(value.numel() for value in weights.values())
    matrices = {name: value for name, value in weights.items() if "blocks." in name and value.ndim == 2}
    small = sum(value.numel() for value in matrices.values())
    for held, size in (("full", 4 * count), ("fp8", 4 * count - 3 * small)):
        said = run(dry_run=True, memory={"weights": held}).log.texts
        assert f"frozen: {count:,} weights, {size / 2**20:.1f} MiB" in said


@pytest.mark.parametrize(
    ("sections", "kind", "message"),
    [
        ({"adapter": {"targets": ["atention"]}}, RecipeError, "did you mean 'attention'"),
        ({"previews": {"prompts": ["a cat --w 33"]}}, RecipeError, "width must be a multiple of 16"),
        ({"model": {"model": "no-such-folder", "family": "flux"}}, ModelError, "no such file or folder"),
        ({"data": {"folder": "no-such-folder"}}, DataError, "does not exist"),
        ({"data": {"bucket_step": 24}}, RecipeError, "bucket_step = 24"),
    ],
)
def test_a_dry_run_finds_mistakes(
    run: Train, sections: dict[str, Any], kind: type[VelaturaError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        run(dry_run=True, **sections)
    assert caught.value.exit_code == 2


def test_a_warm_cache_needs_no_encoder(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run of the same data loads the denoiser only, and learns the same."""
    loaded: list[str] = []
    real = FluxFamily.load

    def load_part(self: FluxFamily, files: Any, parts: Any, **options: Any) -> Any:
        if options["device"].type != "meta":  # there no weight is read: the tokenizers are what is wanted
            loaded.extend(parts)
        return real(self, files, parts, **options)

    monkeypatch.setattr(FluxFamily, "load", load_part)
    sections: dict[str, Any] = {"training": {"steps": 2}, "data": {"flip": 0.5}}
    cold = run(into="cold", **sections)
    assert loaded == ["text_encoders", "autoencoder", "denoiser"]
    assert "encoded 12 images" in cold.log.texts  # six, and their mirror images
    assert "encoded 6 captions" in cold.log.texts
    loaded.clear()
    warm = run(into="warm", **sections)
    assert loaded == ["denoiser"]
    assert "encoded" not in warm.log.texts
    assert equal(cold.state(), warm.state())
    loaded.clear()
    wider = run(into="wider", **sections, objective={"kind": "flow", "caption_dropout": 0.5})
    assert "encoded 1 caption at" in wider.log.texts  # the empty one
    assert loaded == ["text_encoders", "denoiser"]


def test_a_changed_caption_is_encoded_anew_and_nothing_else(run: Train, photos: Path) -> None:
    run(into="a", training={"steps": 1})
    (photos / "03.txt").write_text("a blue sphere")
    again = run(into="b", training={"steps": 1})
    assert "encoded 1 caption at" in again.log.texts
    assert "images at" not in again.log.texts


def test_validation_does_not_depend_on_the_batch_size(run: Train) -> None:
    """A learning rate of nearly nothing leaves the model as it was; three images in two buckets are held out."""
    losses = []
    for size in (1, 2, 5):
        found = run(
            into=f"b{size}",
            training={"steps": 1, "batch_size": size},
            optimizer={"learning_rate": 1e-30},
            validation={"share": 0.5},
        )
        losses += [event.loss for event in found.log.of(ValidationFinished)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_a_loss_that_is_not_a_number_stops_and_names_the_image(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CachedLatents.read_into

    def poisoned(self: CachedLatents, room: Posterior, position: int, view: View) -> None:
        real(self, room, position, view)
        if view.item.name.endswith("02.png"):
            room.mean[position] = torch.nan

    monkeypatch.setattr(CachedLatents, "read_into", poisoned)
    with pytest.raises(NumericError, match=r"step \d: the loss is not finite for [^,]*02\.png \(") as caught:
        run(training={"steps": 6, "batch_size": 4})
    assert caught.value.exit_code == 1


def test_a_run_that_failed_has_its_report(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CachedLatents, "read_into", lambda _, room, *__: room.mean.fill_(torch.nan))
    with pytest.raises(NumericError):
        run(training={"steps": 2}, data={"buckets": False})
    assert (tmp_path / "runs" / "tiny" / "report.html").exists()
    assert not (tmp_path / "runs" / "tiny" / ".lock").exists()


def test_fp16_on_the_cpu(run: Train) -> None:
    """Frozen weights in half precision, trained values and state in float32."""
    half = run(into="half", training={"steps": 3, "precision": "fp16"})
    assert half.outcome.exit_code == 0
    assert {value.dtype for value in half.state().values()} == {torch.float32}
    single = run(into="single", training={"steps": 3})
    assert half.losses == pytest.approx(single.losses, rel=2e-2)
    manifest = json.loads((half.folder / "state" / "000003" / "manifest.json").read_text())
    assert manifest["scaler"]["scale"] > 0


def test_full_training_computes_in_lower_precision_and_keeps_float32(run: Train) -> None:
    found = run(
        training={"steps": 2, "precision": "bf16"}, full={"parts": ["denoiser"], "only": "proj_out.*"}
    )
    assert sorted(found.state()) == ["denoiser.proj_out.bias", "denoiser.proj_out.weight"]
    assert {value.dtype for value in found.state().values()} == {torch.float32}


def test_only_what_matches_is_trained(run: Train, tiny_model: Path) -> None:
    only = "single_transformer_blocks.1.*"
    found = run(
        training={"steps": 2}, full={"parts": ["denoiser"], "only": only}, optimizer={"learning_rate": 0.01}
    )
    (model,) = found.outcome.files
    before = tensors(tiny_model / "transformer" / "diffusion_pytorch_model.safetensors")
    after = tensors(model / "transformer" / "diffusion_pytorch_model.safetensors")
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert changed <= {name for name in before if name.startswith("single_transformer_blocks.1.")}
    with pytest.raises(RecipeError, match="matches no weight"):
        run(into="b", full={"parts": ["denoiser"], "only": "no.such.*"})


def test_weights_and_their_average_are_what_is_saved(run: Train) -> None:
    found = run(training={"steps": 3}, ema={"decay": 0.5}, optimizer={"learning_rate": 0.1})
    average, values = found.state("average"), found.state("values")
    ups = [name for name in average if name.endswith(".up")]
    for file, expected in zip(found.outcome.files, (values, average), strict=True):
        saved = read_adapter(file)["denoiser"]
        assert all(torch.equal(saved[name.removesuffix(".up")].up, expected[name]) for name in ups)
    assert not any(torch.equal(average[name], values[name]) for name in ups)


def test_files_and_events_of_a_run(run: Train) -> None:
    found = run(
        training={"steps": 6, "save_every": 2},
        previews={"every": 3, "steps": 1, "prompts": ["a red cube", "a cat --d 2"]},
        validation={"share": 0.2, "every": 2},
        output={"formats": ["kohya", "diffusers"], "keep_states": 2},
    )
    adapters = sorted(path.name for path in (found.folder / "adapters").iterdir())
    assert adapters == [
        f"tiny-00000{step}{kind}.safetensors" for step in (2, 4, 6) for kind in ("-diffusers", "")
    ]
    assert sorted(path.name for path in (found.folder / "state").iterdir()) == ["000004", "000006"]
    previews = {(event.step, Path(event.path).name) for event in found.log.of(PreviewSaved)}
    assert previews == {(step, name) for step in (0, 3, 6) for name in ("00.png", "01.png")}
    assert [event.step for event in found.log.of(ValidationFinished)] == [2, 4, 6]
    assert [event.step for event in found.log.of(StepFinished)] == [1, 2, 3, 4, 5, 6]
    assert all(Path(event.path).exists() for event in found.log.of(FileSaved) if event.what != "state")
    logged = [json.loads(line) for line in (found.folder / "events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in logged if e["kind"] == "StepFinished"] == [1, 2, 3, 4, 5, 6]
    assert {e["kind"] for e in logged} >= {
        "PhaseStarted",
        "PhaseFinished",
        "Notice",
        "FileSaved",
        "PreviewSaved",
    }


def test_the_baseline_preview_shows_the_model_as_it_was(run: Train, tiny_model: Path) -> None:
    from velatura.sampling.pipeline import Pipeline

    found = run(
        training={"steps": 3}, optimizer={"learning_rate": 0.3}, previews={"steps": 2, "prompts": ["a red cube --d 4"]}
    )  # fmt: skip
    pictures = {
        event.step: np.asarray(Image.open(event.path)).astype(int) for event in found.log.of(PreviewSaved)
    }
    pipeline = Pipeline.load(str(tiny_model), device="cpu", precision="fp32")
    options: dict[str, Any] = {"seed": 4, "steps": 2, "width": 64, "height": 64}
    bare = np.asarray(pipeline("a red cube", **options)[0]).astype(int)
    pipeline.add_lora(found.outcome.files[0])
    after = np.asarray(pipeline("a red cube", **options)[0]).astype(int)
    assert np.abs(pictures[0] - bare).max() <= 1
    assert np.abs(pictures[3] - after).max() <= 1
    assert np.abs(pictures[3] - pictures[0]).max() > 5


def test_a_lora_is_continued(run: Train, tiny_model: Path, tmp_path: Path) -> None:
    """A rank and targets of its own; after a step at nearly no learning rate it is what it was."""
    family, parts = load(tiny_model)
    assert parts.denoiser is not None
    targets = choose(family.targets(parts.denoiser), ["mlp"]).targets
    adapter = put_on_fresh(parts.denoiser, targets, rank=3, alpha=6, seed=5)
    for layer in adapter.layers.values():
        layer.up.data.normal_(0, 0.1)
    start = tmp_path / "start.safetensors"
    write_adapter(start, adapter, split=True, layout="kohya", dtype=torch.float32, metadata={})
    found = run(adapter={"init_from": str(start)}, training={"steps": 1}, optimizer={"learning_rate": 1e-12})
    assert "8 layers continued from" in found.log.texts
    same = run(name="same", adapter={"rank": 3, "init_from": str(start)}, training={"steps": 1})
    assert "has no effect" not in same.log.texts
    other = run(name="other", adapter={"rank": 2, "init_from": str(start)}, training={"steps": 1})
    assert f"adapter.rank = 2 has no effect: what is trained has rank 3, as {start} has it" in other.log.texts
    written = read_toml((other.folder / "recipe.toml").read_text())
    assert ("trained", "lora, layers of start.safetensors") in in_short(written)
    after = read_adapter(found.outcome.files[0])["denoiser"]
    assert after.keys() == adapter.layers.keys()
    for path, value in after.items():
        assert (value.up.shape[1], value.alpha) == (3, 6)
        torch.testing.assert_close(value.up, adapter.layers[path].up.detach(), rtol=0, atol=1e-6)
