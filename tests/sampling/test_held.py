"""Parts come when they are needed, and go where memory is short."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from velatura.adapters.attach import LoraValues, put_on_fresh
from velatura.errors import CheckpointError, MemoryShortage, RecipeError
from velatura.families.flux import FluxFamily
from velatura.interfaces import PARTS, ModelFiles, PartName, Target
from velatura.sampling.held import HeldParts
from velatura.sampling.memory import FILLED
from velatura.sampling.pipeline import Pipeline
from velatura.sampling.placing import Placement, place_by

from ..tiny import Log
from .test_generate import lora

SMALL = {"width": 32, "height": 32, "steps": 2}


def pipeline(model: Path, **options: Any) -> Pipeline:
    return Pipeline.load(str(model), device="cpu", precision="fp32", **options)


def test_text_encoders_go_before_the_denoiser_comes(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pipeline(tiny_model)("a red cube", **SMALL)[0].tobytes()
    monkeypatch.setattr(HeldParts, "keeps_all", False)
    held: list[tuple[PartName, bool]] = []
    load = HeldParts._load

    def loading(parts: HeldParts, name: PartName) -> None:
        held.append((name, parts.parts.text_encoders is not None))
        load(parts, name)

    monkeypatch.setattr(HeldParts, "_load", loading)
    paints = pipeline(tiny_model)
    assert paints("a red cube", **SMALL)[0].tobytes() == expected
    assert held == [("text_encoders", False), ("denoiser", False), ("autoencoder", False)]
    assert paints.parts.text_encoders is None
    assert paints("a red cube", **SMALL)[0].tobytes() == expected  # not encoded again
    assert len(held) == 3


def test_released_text_encoders_are_not_held_by_their_adapters(tiny_model: Path) -> None:
    paints = pipeline(tiny_model)
    held = paints.held
    held.need("text_encoders")
    (clip, _) = held.parts.modules("text_encoders")
    module = next(name for name, layer in clip.named_modules() if isinstance(layer, torch.nn.Linear))
    held._adapters.append(put_on_fresh(clip, [Target(module=module, group="other")], rank=2, alpha=2, seed=0))
    gone = weakref.ref(clip)
    del clip
    held.release_text_encoders()
    gc.collect()
    assert gone() is None


def test_a_weight_that_is_no_number_is_refused(tiny_model: Path) -> None:
    with pytest.raises(RecipeError, match=r"must be a finite number, received nan for a\.safetensors"):
        pipeline(tiny_model).add_lora("a.safetensors", float("nan"))


def test_a_lora_that_does_not_fit_a_later_part_is_refused_each_time(tiny_model: Path) -> None:
    """The part must not stay behind without it: the next picture would be painted as if there were none."""
    paints = pipeline(tiny_model)
    wrong = LoraValues(down=torch.ones(2, 99), up=torch.ones(32, 2), alpha=2.0)
    paints.held._loras.append(({"clip_l": {"text_model.encoder.layers.0.self_attn.q_proj": wrong}}, 1.0))
    for _ in range(2):
        with pytest.raises(CheckpointError, match="99"):
            paints("a red cube", **SMALL)
    paints.remove_loras()
    assert (
        paints("a red cube", **SMALL)[0].tobytes() == pipeline(tiny_model)("a red cube", **SMALL)[0].tobytes()
    )


def test_too_little_memory_for_the_weights_is_told(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paints = pipeline(tiny_model)

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(paints.family, "load", full)
    with pytest.raises(
        MemoryShortage, match="of cpu is too small to load the denoiser: ask for another device"
    ):
        paints.held.need("denoiser")  # as `add_lora` does


@pytest.mark.parametrize("weights", ["full", "fp8", "int8"])
def test_streamed_weights_paint_the_same(tiny_model: Path, tmp_path: Path, weights: str) -> None:
    """With LoRAs too, which are put on layers that lie elsewhere, and come off again."""
    file = lora(tiny_model, tmp_path / "x.safetensors", seed=1)
    painted = []
    for streamed in (0.0, 0.7):
        log = Log()
        paints = pipeline(tiny_model, weights=weights, streamed=streamed, events=log.events)
        before = paints("a red cube", **SMALL)[0].tobytes()
        paints.add_lora(file, 0.5)
        adapted = paints("a red cube", **SMALL)[0].tobytes()
        paints.remove_loras()
        assert paints("a red cube", **SMALL)[0].tobytes() == before
        assert adapted != before
        painted.append((before, adapted))
        assert ("are streamed from the machine's memory" in log.texts) == bool(streamed)
        assert ("have no use on the CPU" in log.texts) == bool(streamed)
    assert painted[0] == painted[1]


def test_a_share_is_a_share(tiny_model: Path) -> None:
    with pytest.raises(RecipeError, match=r"received streamed = 1\.5; allowed: a share from 0 to 1"):
        pipeline(tiny_model, streamed=1.5)


def test_text_encoders_can_be_on_the_cpu(tiny_model: Path) -> None:
    for text_encoders, where in (("auto", "meta"), ("cpu", "cpu")):
        held = pipeline(tiny_model, text_encoders=text_encoders).held
        held.device = torch.device("meta")
        for part in PARTS:
            held.need(part)
        found = {
            part: {p.device.type for m in held.parts.modules(part) for p in m.parameters()} for part in PARTS
        }
        assert found == {"text_encoders": {where}, "autoencoder": {"meta"}, "denoiser": {"meta"}}


def test_text_encoders_on_the_cpu_make_room(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they do not count, all other parts may stay."""
    counts = FluxFamily().weight_counts(ModelFiles(model=str(tiny_model)))
    rest = 4 * (counts["denoiser"] + counts["autoencoder"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(rest / FILLED) + 1, 0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    for text_encoders, keeps_all in (("auto", False), ("cpu", True)):
        held = pipeline(tiny_model, text_encoders=text_encoders).held
        held.device = torch.device("cuda")
        assert held.keeps_all == keeps_all


@pytest.mark.parametrize("name", ["weights", "autoencoder", "text_encoders", "attention"])
def test_unknown_words_are_refused(tiny_model: Path, name: str) -> None:
    with pytest.raises(RecipeError, match=f"received {name} 'odd'; allowed: "):
        pipeline(tiny_model, **{name: "odd"})


@pytest.mark.parametrize("turns", [True, False])
def test_a_plan_says_whether_parts_take_turns(tiny_model: Path, turns: bool) -> None:
    paints = pipeline(tiny_model)
    place_by(paints.held, Placement(turns=turns, weights="fp8", autoencoder="sliced"))
    paints("a red cube", **SMALL)
    assert (paints.parts.text_encoders is None) == turns
    assert (paints.held.weights, paints.parts.pieces) == ("fp8", "sliced")
