"""What a `[[data]]` table says reaches the loss: captions, masks, weights, class images, sampled latents."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from velatura.data.loader import Loader
from velatura.events import StepFinished
from velatura.recipe.data.rated import Rated
from velatura.recipe.data.sources.everydream2 import EveryDream2Data
from velatura.training.dataset import prepare_dataset

from ..tiny import Log, recipe, write_pictures
from .conftest import SIZES, Train, equal

SHORT = {"steps": 3, "batch_size": 3}
FAST = {"learning_rate": 0.01}


def test_captions_that_are_always_dropped_are_empty_captions(run: Train, photos: Path) -> None:
    dropped = run(into="dropped", training=SHORT, optimizer=FAST, data={"caption_dropout": 1.0})
    read = run(into="read", training=SHORT, optimizer=FAST)
    for caption in photos.glob("*.txt"):
        caption.write_text("")
    empty = run(into="empty", training=SHORT, optimizer=FAST)
    assert equal(dropped.state(), empty.state())
    assert not equal(dropped.state(), read.state())


def test_each_source_has_its_own_dropout(tmp_path: Path, photos: Path, tiny_model: Path) -> None:
    write_pictures(tmp_path / "more", SIZES[:4], seed=1)
    data = [{"caption_dropout": 1.0}, {"folder": str(tmp_path / "more"), "trigger": "sks"}]
    dataset = prepare_dataset(recipe(tmp_path, tiny_model, data=data), tmp_path, 16, Log().events)
    with Loader(dataset.plan, caption_dropout=0.0) as loader:
        batches = [batch for step in range(10) for batch in loader.batches(step)]
    texts = {
        Path(name).parent.name: prompt.text
        for batch in batches
        for name, prompt in zip(batch.names, batch.prompts, strict=True)
    }
    assert texts["photos"] == ""
    assert texts["more"].startswith("sks, a red cube")


def write_masks(folder: Path, level: int) -> Path:
    folder.mkdir()
    for number, size in enumerate(SIZES):
        Image.new("L", size, level).save(folder / f"{number:02d}.png")
    return folder


def test_a_white_mask_changes_nothing_and_a_black_one_teaches_nothing(run: Train, tmp_path: Path) -> None:
    plain = run(into="plain", training=SHORT, optimizer=FAST)
    white = write_masks(tmp_path / "white", 255)
    same = run(into="same", training=SHORT, optimizer=FAST, data={"masks": str(white)})
    for name, value in plain.state().items():
        torch.testing.assert_close(same.state()[name], value, rtol=1e-4, atol=1e-6)
    black = write_masks(tmp_path / "black", 0)
    nothing = run(into="nothing", training=SHORT, optimizer=FAST, data={"masks": str(black)})
    steps = nothing.log.of(StepFinished)
    assert [(step.loss, step.grad_norm) for step in steps] == [(0, 0)] * 3


def test_class_images_are_used_as_often_as_the_others_and_have_their_weight(
    tmp_path: Path, photos: Path, tiny_model: Path
) -> None:
    write_pictures(tmp_path / "class", SIZES[:2], seed=1)
    data = [{"repeats": 3}, {"folder": str(tmp_path / "class"), "regularisation": True, "weight": 0.25}]
    wanted = recipe(tmp_path, tiny_model, data=data, training={"batch_size": 3})
    dataset = prepare_dataset(wanted, tmp_path, 16, Log().events)
    uses: Counter[str] = Counter()
    weights: dict[str, set[float]] = {}
    with Loader(dataset.plan) as loader:
        for step in range(dataset.plan.batches_per_epoch):
            for batch in loader.batches(step):
                for name, weight in zip(batch.names, batch.weights.tolist(), strict=True):
                    uses[Path(name).parent.name] += 1
                    weights.setdefault(Path(name).parent.name, set()).add(weight)
    assert uses == {"photos": 18, "class": 18}
    assert weights == {"photos": {1.0}, "class": {0.25}}


def test_a_tree_of_everydream2_in_training(tmp_path: Path, photos: Path, tiny_model: Path) -> None:
    """Six images: a group of two, one that is not used, and of the five half in the end; 32 tokens are two 64x64."""
    (photos / "global.yaml").write_text("tags: [of wood]")
    for name, said in {"00": "batch_id: a", "01": "batch_id: a", "02": "multiply: 0"}.items():
        (photos / f"{name}.yaml").write_text(said)
    plain = recipe(tmp_path, tiny_model, training={"batch_tokens": 32, "incomplete": "fill"})
    data = EveryDream2Data(root=str(photos), resolution=64, buckets=False)
    wanted = plain.model_copy(update={"data": [data], "rated": Rated(keep=0.4, epochs=1)})
    dataset = prepare_dataset(wanted, tmp_path, 16, Log().events)
    assert ", in which 1 more" in dataset.report()
    epochs: dict[int, set[str]] = {}
    for step in range(dataset.plan.batches_per_epoch + 4):
        [batch] = dataset.plan.micro_batches(step)
        assert len(batch) == 2
        assert len({at.entry.item.treatment.group for at in batch}) == 1
        epochs.setdefault(batch[0].epoch, set()).update(Path(at.entry.item.name).stem for at in batch)
    assert epochs[0] == {"00", "01", "03", "04", "05"}
    assert len(epochs[1]) == 2
    with Loader(dataset.plan) as loader:
        assert loader.batches(0)[0].prompts[0].text.startswith("a red cube number")
        assert loader.batches(0)[0].prompts[0].text.endswith(", of wood")


def test_weights_count_against_each_other(run: Train, tmp_path: Path, photos: Path) -> None:
    """The loss of a step is a weighted mean: what counts is the ratio of the weights, and it does count."""
    write_pictures(tmp_path / "class", SIZES[:2], seed=1)

    def losses(plain: float, classes: float) -> list[float]:
        folder = str(tmp_path / "class")
        data = [{"weight": plain}, {"folder": folder, "regularisation": True, "weight": classes}]
        into = f"{plain}-{classes}"
        return run(into=into, training={"steps": 3, "batch_size": 4}, optimizer=FAST, data=data).losses

    assert losses(1.0, 0.25) == pytest.approx(losses(4.0, 1.0), rel=1e-5)
    assert losses(1.0, 0.5) != pytest.approx(losses(4.0, 1.5), rel=1e-5)


def test_cached_samples_are_those_of_a_run_without_a_cache(run: Train) -> None:
    """The same noise is drawn; only rounding in batches of another size differs."""
    fresh = run(into="fresh", training=SHORT, memory={"cache": False})
    cached = run(into="cached", training=SHORT, memory={"cached_latents": "sample"})
    means = run(into="means", training=SHORT)
    assert cached.losses == pytest.approx(fresh.losses, rel=1e-4)
    assert means.losses != pytest.approx(fresh.losses, rel=1e-4)
