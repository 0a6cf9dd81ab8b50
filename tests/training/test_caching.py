"""What is said while captions and images are encoded ahead of the loop."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from velatura.events import Event, Notice, PhaseProgress
from velatura.families.latent_family import LatentFamily
from velatura.families.registry import family_for, files_of
from velatura.interfaces import PARTS, Batch, Parts, Prompt
from velatura.objectives.denoising import condition
from velatura.training.caching import load_part

from ..tiny import Log, load, recipe
from .conftest import Run, Train, equal


def levels(found: Run, words: str) -> list[str]:
    """Of the notices with these words."""
    return [notice.level for notice in found.log.of(Notice) if words in notice.message]


def test_what_the_encoders_do_not_read_of_captions_is_told(run: Train, photos: Path) -> None:
    """Both read 28 tokens; CLIP has a mark at both ends, T5 one at the end. Told again when all is cached."""
    for number, words in ((0, 60), (1, 27)):  # far too long for both; too long for CLIP alone
        (photos / f"{number:02d}.txt").write_text(" ".join(["cube"] * words))
    for into in ("cold", "warm"):
        found = run(into=into, training={"steps": 1})
        said = found.log.texts
        name, other = (f"{photos}/{number:02d}.png" for number in (0, 1))
        few = f'1 of 6 captions: {name} ({{}} tokens; not read: "cube cube'
        assert f"too long for CLIP, which reads 28 tokens: {few.format(62)}" in said
        assert f"too long for T5, which reads 28 tokens: {few.format(61)}" in said
        assert f'CLIP, which reads 28 tokens: 1 of 6 captions: {other} (29 tokens; not read: "cube"). T5 reads it whole.' in said  # fmt: skip
        assert levels(found, "No text encoder reads it whole: shorten it") == ["warning", "warning"]
        assert levels(found, "T5 reads it whole") == ["info"]
        report = (found.folder / "report.html").read_text("utf-8")
        assert "too long for T5, which reads 28 tokens" in report
    assert "encoded" not in said  # the second run


def test_a_few_of_many_are_named(run: Train, photos: Path) -> None:
    for number in range(5):
        (photos / f"{number:02d}.txt").write_text(f"{number} " + " ".join(["cube"] * 60))
    said = run(training={"steps": 1}).log.texts
    assert "too long for T5, which reads 28 tokens: 5 of 6 captions: " in said
    assert "; and 2 more. No text encoder reads them whole: shorten them" in said
    assert "04.png" not in said


def test_captions_that_are_encoded_at_every_step_are_looked_at_too(run: Train, photos: Path) -> None:
    (photos / "00.txt").write_text(" ".join(["cube"] * 60))
    found = run(training={"steps": 1}, memory={"cache": False})
    assert levels(found, "too long for T5") == ["warning"]


def test_of_very_many_captions_the_first_are_looked_at(
    run: Train, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("velatura.training.caching.LOOKED_AT", 3)
    for number in (2, 4):
        (photos / f"{number:02d}.txt").write_text(" ".join(["cube"] * 60))
    said = run(training={"steps": 1}).log.texts
    assert "of the captions, the tokens of the first 3 were counted" in said
    assert "1 of 3 captions" in said


def test_preview_prompts_that_are_cut_or_have_no_effect_are_told(run: Train) -> None:
    long = " ".join(["cube"] * 40)
    prompts = [f"a cube --n {long} --l 2", long, "a cube --n ugly", "a cone --n bad"]
    found = run(training={"steps": 1}, previews={"steps": 1, "baseline": False, "prompts": prompts})
    said = found.log.texts
    assert (
        "too long for T5, which reads 28 tokens: 2 of 5 preview prompts: preview 1, negative (41 tokens"
        in said
    )
    assert "; preview 2 (41 tokens" in said
    expected = "preview 3, 4: the negative prompt has no effect at cfg = 1: set cfg above 1, or leave it out"
    assert levels(found, expected) == ["warning"]


CHANGING = "captions are encoded at every step: 6 of 6 captions change from use to use (shuffle_tags)"


@pytest.mark.parametrize("dry_run", [True, False])
def test_which_encoders_stay_loaded_and_why(run: Train, photos: Path, dry_run: bool) -> None:
    for number in range(6):
        (photos / f"{number:02d}.txt").write_text("cube, " * 40 + "red")
    said = run(dry_run=dry_run, training={"steps": 1}, data={"shuffle_tags": True, "colour": 0.5}).log.texts
    assert f"{CHANGING}; caption_variants would draw a number of texts ahead" in said
    assert "images are encoded at every step: 6 images change their colours from use to use (colour)" in said
    if not dry_run:
        assert "No text encoder reads them whole: shorten them" in said


def test_with_variants_the_encoders_are_released(run: Train, photos: Path) -> None:
    for number in range(6):
        (photos / f"{number:02d}.txt").write_text(f"a, b, c, d, {number}")
    data = {"shuffle_tags": True, "caption_variants": 2}
    assert "captions: 12 of 12 texts to be encoded" in run(dry_run=True, data=data).log.texts
    said = run(training={"steps": 3}, data=data).log.texts
    assert "at every step" not in said
    assert "encoded 12 captions" in said


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"memory": {"cache": False}}, "memory.cache = false"),
        ({"full": {"parts": ["text_encoders"]}}, "the text encoders are trained"),
    ],
)
def test_other_reasons(run: Train, sections: dict[str, Any], reason: str) -> None:
    said = run(dry_run=True, **sections).log.texts
    assert f"captions are encoded at every step: {reason}" in said


def test_a_stop_file_is_obeyed_between_batches_and_what_is_encoded_stays(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("velatura.data.progress._EVERY", 0)  # seconds: an event for each batch

    def ask(event: Event) -> None:
        if isinstance(event, PhaseProgress) and event.phase == "cache latents":
            (tmp_path / "runs/tiny/stop").touch()

    stopped = run(training={"steps": 2}, watch=ask)
    assert stopped.outcome.exit_code == 75
    assert "the file 'stop' was found, and is removed: stopping" in stopped.log.texts
    assert "go on with --resume" in stopped.log.texts
    assert not (stopped.folder / "stop").exists()
    resumed = run(training={"steps": 2}, resume=True)
    assert "encoded 2 images" in resumed.log.texts
    assert "4 were in the cache" in resumed.log.texts
    assert resumed.losses == run(training={"steps": 2}, into="straight").losses


def test_text_encoders_are_gone_before_the_denoiser_comes(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No weight of them is alive any more, whoever might hold one."""
    encoders: list[weakref.ref[nn.Module]] = []
    alive: list[tuple[str, int]] = []
    load = LatentFamily.load

    def loading(self: LatentFamily, files: Any, parts: Any, **options: Any) -> Parts:
        if options["device"].type != "meta":
            gc.collect()
            alive.append((parts[0], sum(one() is not None for one in encoders)))
        found = load(self, files, parts, **options)
        encoders.extend(weakref.ref(p) for module in found.text_encoders or () for p in module.parameters())
        return found

    monkeypatch.setattr(LatentFamily, "load", loading)
    run(training={"steps": 1}, previews={"prompts": ["a red cube"], "steps": 1})
    assert encoders
    assert alive == [("text_encoders", 0), ("autoencoder", 0), ("denoiser", 0)]


@pytest.mark.parametrize(("text_encoders", "where"), [("auto", "meta"), ("cpu", "cpu")])
def test_text_encoders_can_be_run_on_the_cpu(
    text_encoders: str, where: str, tiny_model: Path, tmp_path: Path
) -> None:
    wanted = recipe(tmp_path, tiny_model, memory={"text_encoders": text_encoders})
    family, files = family_for(wanted.model), files_of(wanted.model, tmp_path)
    setup: Any = SimpleNamespace(
        recipe=wanted, family=family, files=files, device=torch.device("meta"), dtype=torch.float32, sharded=False, trained=("denoiser",)
    )  # fmt: skip
    parts = Parts(info=family.inspect(files))
    for name in PARTS:
        load_part(setup, parts, name, Log().events)
    devices = {part: {p.device.type for m in parts.modules(part) for p in m.parameters()} for part in PARTS}
    assert devices == {"text_encoders": {where}, "autoencoder": {"meta"}, "denoiser": {"meta"}}


def test_what_encoders_on_the_cpu_give_goes_to_the_batch(tiny_model: Path) -> None:
    family, parts = load(tiny_model)
    batch = Batch(
        names=("a",), prompts=(Prompt(text="a cube"),), weights=torch.ones(1, device="meta"), slots=(0,)
    )
    assert {one.device.type for one in condition(family, parts, batch).tensors.values()} == {"meta"}


def test_trained_as_with_encoders_on_the_device(run: Train) -> None:
    for memory in ({}, {"cache": False}):
        runs = [
            run(
                into=f"runs-{where}{len(memory)}",
                training={"steps": 2},
                memory={**memory, "text_encoders": where},
            )
            for where in ("auto", "cpu")
        ]
        assert equal(runs[0].state(), runs[1].state())
