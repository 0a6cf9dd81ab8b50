"""Trainings and pictures on the second device, compared with the CPU's. In a process of its own: see `test_cases.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.families.models import sd1_folder
from tests.placement.simulated import SimulatedLink
from tests.second_device.device import register
from tests.tiny import Log, recipe, write_flux, write_pictures

from velatura.events import StepFinished
from velatura.placement.place import place
from velatura.recipe.recipe import Recipe
from velatura.sampling.pipeline import Pipeline
from velatura.training.run import Resume, train

CPU = torch.device("cpu")
STEPS = 3

On = Callable[[torch.device], None]


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> torch.device:
    torch.set_num_threads(1)
    return register(tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="session", params=["flux", "sd1"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / request.param
    if request.param == "sd1":
        return sd1_folder(folder)
    shape = {"num_layers": 2, "num_single_layers": 3, "num_attention_heads": 2}
    return write_flux(folder, transformer=shape)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> On:
    """Lets all that is done next be done on a device."""

    def choose(device: torch.device) -> None:
        for user in ("velatura.training.distribution.joining", "velatura.sampling.pipeline"):
            monkeypatch.setattr(f"{user}.choose_device", lambda name="auto": device)

    return choose


def trained(wanted: Recipe, base: Path, resume: Resume | None = None) -> list[float]:
    """The losses of a training."""
    log = Log()
    train(wanted, base, resume=resume, events=log.events)
    return [event.loss for event in log.of(StepFinished)]


FULL: dict[str, Any] = {"full": {}}
FUSED = {"optimizer": {"fused_backward": True, "clip": 0.0}}
BROUGHT = {"previews": {"prompts": ["a red cube"], "every": 1, "streamed": 0.0}}
TRAININGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora-bf16-batches": {"training": {"precision": "bf16", "batch_size": 2, "accumulate": 2}},
    "lora-recomputed": {"training": {"checkpoint_blocks": True}, "memory": {"offload_activations": True}},
    "lora-mlp": {"training": {"checkpoint_blocks": "mlp"}},
    "lora-fp8": {"memory": {"weights": "fp8"}},
    "lora-nf4-streamed": {"memory": {"weights": "nf4", "streamed": 0.5}},
    "lora-streamed": {"memory": {"streamed": 1.0}},
    "lora-streamed-recomputed": {"memory": {"streamed": 1.0}, "training": {"checkpoint_blocks": 2}},
    "lora-no-cache": {"memory": {"cache": False, "split_attention": True}, "training": {"batch_size": 2}},
    "lora-encoders-on-cpu": {"memory": {"cache": False, "text_encoders": "cpu"}},
    "lora-previews": {"previews": {"prompts": ["a red cube"], "every": 1}, "ema": {"decay": 0.9}},
    "lora-batches-in-passes": {"memory": {"micro_batch": 1}, "training": {"batch_size": 2}},
    "lora-streamed-previews": {"memory": {"streamed": 1.0}, **BROUGHT},
    "full": {**FULL, "ema": {"decay": 0.9, "device": "cpu"}},
    "full-fused": {**FULL, **FUSED},
    "full-streamed": {**FULL, "memory": {"streamed": 1.0}, "training": {"accumulate": 2}},
    "full-streamed-fused": {**FULL, **FUSED, "memory": {"streamed": 0.5}},
    "full-streamed-previews": {**FULL, "memory": {"streamed": 1.0}, "ema": {"decay": 0.9}, **BROUGHT},
    "full-offloaded": {**FULL, "optimizer": {"offload": True}},
    "full-bf16": {"full": {"weights": "bf16"}, "training": {"precision": "bf16"}},
    "adamw8bit": {**FULL, "optimizer": {"kind": "adamw8bit"}},
    "adafactor": {**FULL, "optimizer": {"kind": "adafactor"}},
    "muon": {**FULL, "optimizer": {"kind": "muon"}},
    "text-encoders": {"full": {"parts": ["denoiser", "text_encoders"]}},
    "autoencoder": {"full": {"parts": ["autoencoder"]}, "objective": {"kind": "autoencoder"}},
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training(
    tmp_path: Path, second: torch.device, model: Path, on: On, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "photos", [(64, 64)] * 4)
    sections = {"previews": {"prompts": []}, "validation": {}, **TRAININGS[name]}
    sections["training"] = {"steps": STEPS, **sections.get("training", {})}
    sections["optimizer"] = {"learning_rate": 1e-3, **sections.get("optimizer", {})}
    # copies that arrive late, as real ones do
    monkeypatch.setattr("velatura.training.placing.link_to", lambda _: SimulatedLink(1e9))
    losses = []
    for device in (CPU, second):
        on(device)
        wanted = recipe(tmp_path, model, **{**sections, "output": {"folder": str(tmp_path / device.type)}})
        losses.append(trained(wanted, tmp_path))
    print(losses)
    assert losses[0][0] != losses[0][-1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02 if "bf16" in name else 1e-3)


def test_what_is_resumed_is_on_the_device_again(
    tmp_path: Path, second: torch.device, model: Path, on: On
) -> None:
    write_pictures(tmp_path / "photos", [(64, 64)] * 4)
    on(second)
    for kind in ("adamw", "adamw8bit"):
        sections: dict[str, Any] = {"optimizer": {"kind": kind}, "ema": {"decay": 0.9}, **FULL}

        def steps(count: int, name: str, sections: dict[str, Any] = sections) -> Recipe:
            own = {"training": {"steps": count}, "previews": {"prompts": []}, **sections}
            return recipe(tmp_path, model, name=name, **own)

        whole = trained(steps(STEPS, f"whole-{kind}"), tmp_path)
        begun = trained(steps(1, f"split-{kind}"), tmp_path)
        assert begun + trained(steps(STEPS, f"split-{kind}"), tmp_path, Resume()) == whole


PICTURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # of the pipeline, of the picture
    "plain": ({}, {}),
    "cfg": ({}, {"cfg": 2.0, "negative": "blue", "batch": 2}),
    "image": ({}, {"strength": 0.6}),
    "fp8": ({"weights": "fp8"}, {}),
    "nf4": ({"weights": "nf4"}, {}),
    "bf16": ({"precision": "bf16"}, {}),
    "streamed": ({"streamed": 1.0}, {}),
    "fp8-streamed": ({"weights": "fp8", "streamed": 0.5}, {}),
    "encoders-on-cpu": ({"text_encoders": "cpu"}, {}),
    "sliced": ({"autoencoder": "sliced"}, {}),
    "tiled": ({"autoencoder": "tiled"}, {}),
    "split": ({"split_attention": True}, {"batch": 2}),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture(second: torch.device, model: Path, on: On, name: str) -> None:
    how, what = PICTURES[name]
    start = Image.effect_noise((64, 64), 60).convert("RGB") if "strength" in what else None
    found = []
    for device in (CPU, second):
        on(device)
        pipeline = Pipeline.load(str(model), **{"precision": "fp32", **how})
        pictures = pipeline("a red cube", steps=3, width=64, height=64, image=start, **what)
        found.append(np.stack([np.asarray(picture, dtype=float) for picture in pictures]))
    assert np.std(found[0]) > 1
    assert np.abs(found[0] - found[1]).mean() < (2.0 if name == "bf16" else 0.05)


def test_tensors_of_both_devices_may_not_meet(second: torch.device) -> None:
    """Else no test here would find a thing."""
    there, here = torch.ones(3, device=second), torch.ones(3)
    for meet in (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: torch.nn.functional.linear(there[None], here[None]),
        lambda: torch.where(there > 0, there, here),
        lambda: there.normal_(generator=torch.Generator()),
    ):
        with pytest.raises(RuntimeError):
            meet()
    assert (there * torch.tensor(2.0)).cpu().equal(2 * here)


def test_streamed_weights_are_on_the_host(second: torch.device) -> None:
    """As `place` leaves them, and on the device while they are computed with."""
    blocks = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(4))).requires_grad_(False)
    value = torch.randn(2, 4)
    wanted = blocks(value)
    placed = place(blocks, list(blocks), (), share=1.0, device=second)
    assert blocks(value.to(second)).cpu().equal(wanted)
    placed.leave()
    assert {parameter.device for parameter in blocks.parameters()} == {CPU}
