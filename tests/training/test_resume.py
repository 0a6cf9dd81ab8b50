"""Same recipe and seed, same weights; stopped and resumed, never stopped: bit for bit."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from velatura.errors import RecipeError
from velatura.events import Event, FileSaved, PreviewSaved, StepFinished, ValidationFinished
from velatura.training.states.resuming import Resume

from ..tiny import write_flux
from .conftest import Run, Train, equal

STEPS = 7
WEIGHTS = "diffusion_pytorch_model.safetensors"
# everything that draws numbers or keeps a state of its own
COMMON: dict[str, Any] = {
    "data": {"flip": 0.5, "resolution": [64, 48]},
    "objective": {"kind": "flow", "caption_dropout": 0.4},
    "optimizer": {"learning_rate": 0.01, "warmup_steps": 2},
    "training": {
        "steps": STEPS,
        "batch_size": 3,
        "accumulate": 2,
    },  # 3 of a bucket's 4: the last batch is small
}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora, recomputed": {"training": {**COMMON["training"], "checkpoint_blocks": True}},
    "full, EMA": {"full": {"parts": ["denoiser"]}, "ema": {"decay": 0.9}},
    "full, muon": {"full": {"parts": ["denoiser"]}, "optimizer": {"kind": "muon", "learning_rate": 0.01}},
    "full, bf16, 8 bits, in the backward pass": {
        "full": {"parts": ["denoiser"], "weights": "bf16"},
        "optimizer": {"kind": "adamw8bit", "learning_rate": 0.01, "clip": 0, "fused_backward": True},
        "training": {"steps": STEPS, "batch_size": 3, "precision": "bf16"},
        "ema": {"decay": 0.9},
    },
    "schedule-free": {
        "optimizer": {
            "kind": "schedulefree.AdamWScheduleFree",
            "learning_rate": 0.01,
            "schedule": "constant",
        },
        "previews": {"prompts": ["a red cube"], "every": 2},
        "validation": {"share": 0.2, "every": 3},
    },
    "prodigy": {
        "optimizer": {"kind": "prodigyopt.Prodigy", "learning_rate": 1.0, "options": {"d_coef": 2.0}}
    },
    "text encoders": {"full": {"parts": ["text_encoders", "denoiser"]}},
    "no cache": {"memory": {"cache": False}},
    "fp8": {"memory": {"weights": "fp8"}},
    "drawn data": {
        "data": {
            **COMMON["data"],
            "crop": "random",
            "tag_dropout": 0.3,
            "tag_separator": " ",
            "caption_variants": 3,
        },
        "memory": {"cached_latents": "sample"},
    },
    "drawn order": {
        "data": {"repeats": 1.5, "resolution": [64, 48]},
        "training": {"steps": STEPS, "batch_tokens": 40, "accumulate": 2, "incomplete": "fill"},
        "rated": {"keep": 0.5, "epochs": 2},
    },
    "autoencoder": {
        "full": {"parts": ["autoencoder"]},
        "objective": {"kind": "autoencoder", "crop": 32},
        "data": {"flip": 0.5, "resolution": [64, 48]},
    },
}


def results(run: Run) -> dict[str, bytes]:
    """All files that a user takes away, and the last state."""
    newest = sorted((run.folder / "state").iterdir())[-1]
    places = [newest, *run.outcome.files]
    files = [
        p for place in places for p in ([place] if place.is_file() else sorted(place.rglob("*.safetensors")))
    ]
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_resumed_is_never_stopped(run: Train, kind: str) -> None:
    sections = {**COMMON, **KINDS[kind]}
    straight = run(into="straight", **sections)
    assert (straight.outcome.exit_code, straight.outcome.step) == (0, STEPS)
    stopped = run(into="stopped", stop_after=3, **sections)
    assert (stopped.outcome.exit_code, stopped.outcome.step) == (75, 3)
    assert "stopped after step 3; go on with --resume" in stopped.log.texts
    again = run(into="stopped", resume=True, stop_after=4, **sections)
    assert again.outcome.step == 4
    resumed = run(into="stopped", resume=True, **sections)
    assert [event.step for event in resumed.log.of(StepFinished)] == [5, 6, 7]
    assert resumed.outcome.exit_code == 0
    assert stopped.losses + again.losses + resumed.losses == straight.losses
    assert results(resumed) == results(straight)
    assert len(set(straight.losses)) == STEPS
    if kind.startswith("full, EMA"):
        assert not equal(straight.state("average"), straight.state("values"))


def test_the_seed_makes_a_difference(run: Train) -> None:
    training = {"steps": 1}
    one, two, other = (run(into=f"r{i}", seed=seed, training=training) for i, seed in enumerate((1, 1, 2)))
    assert equal(one.state(), two.state())
    assert one.losses == two.losses != other.losses
    assert not equal(one.state(), other.state())


def test_previews_and_validation_do_not_change_what_is_learned(run: Train) -> None:
    """Held-out images do change it: they are chosen first; so both runs hold out the same."""
    common = {"training": {"steps": 4}, "validation": {"share": 0.3, "every": 100}}
    plain = run(into="plain", **common)
    common["validation"]["every"] = 1
    shown = run(
        into="shown", **common, previews={"every": 1, "steps": 1, "prompts": ["a red cube", "a cat --l 2"]}
    )
    assert equal(plain.state(), shown.state())
    assert plain.losses == shown.losses


def test_a_resumed_run_may_be_longer_but_not_another(run: Train) -> None:
    common: dict[str, Any] = {"optimizer": {"schedule": "constant"}}
    run(**common, training={"steps": 2})
    longer = run(resume=True, **common, training={"steps": 4, "save_every": 1}, previews={"steps": 2})
    straight = run(into="straight", **common, training={"steps": 4})
    assert equal(longer.state(), straight.state())
    kept = {path: path.read_bytes() for path in longer.folder.iterdir() if path.is_file()}
    assert {path.name for path in kept} >= {"recipe.toml", "status.json", "events.jsonl", "report.html"}
    for what, change in (
        ("recipe: optimizer.learning_rate was 0.0001, is 0.5", {"optimizer": {"schedule": "constant", "learning_rate": 0.5}}),
        ("recipe: adapter.rank was 4, is 2", {"adapter": {"rank": 2}}),
        ('recipe: objective.weighting was "none", is "cosmap"', {"objective": {"kind": "flow", "weighting": "cosmap"}}),
        ("recipe: seed was 3, is 4", {"seed": 4}),
        ("recipe: training.batch_size was 1, is 2", {"training": {"steps": 5, "batch_size": 2}}),
        ('recipe: training.precision was "float32", is "bfloat16"', {"training": {"steps": 5, "precision": "bf16"}}),
        ("recipe: memory.cache was true, is false", {"memory": {"cache": False}}),
        ('recipe: memory.weights was "full", is "fp8"', {"memory": {"weights": "fp8"}}),
        ("recipe: adapter was set, is not set\n  recipe: full was not set, is set\n", {"full": {"parts": ["denoiser"], "only": "proj_out.*"}}),
        ("recipe: ema was not set, is set", {"ema": {"decay": 0.9}}),
        ("data: 6 images changed in file, caption, or what [[data]] does with it", {"data": {"flip": 0.5}}),
    ):  # fmt: skip
        for dry_run in (True, False):
            with pytest.raises(RecipeError) as caught:
                run(resume=True, dry_run=dry_run, **{**common, "training": {"steps": 5}, **change})
            assert f"\n  {what}" in str(caught.value)
            word = what.partition(":")[0]
            assert f"the {word} differs from what this run was started with" in str(caught.value)
        assert all(path.read_bytes() == content for path, content in kept.items()), change


def test_other_pictures_or_another_model_are_another_run(
    run: Train, photos: Path, tmp_path: Path, tiny_model: Path
) -> None:
    run(training={"steps": 1})
    other = shutil.copytree(tiny_model, tmp_path / "other")
    shutil.copy(
        write_flux(tmp_path / "new", seed=1) / "transformer" / WEIGHTS, other / "transformer" / WEIGHTS
    )
    with pytest.raises(
        RecipeError, match="the model differs from what .*\n  model: other weights of the denoiser\n"
    ):
        run(resume=True, training={"steps": 2}, model={"model": str(other)})
    (photos / "00.txt").write_text("another caption")
    (photos / "01.png").unlink()
    shutil.copy(photos / "02.png", photos / "more.png")
    with pytest.raises(RecipeError) as caught:
        run(resume=True, training={"steps": 2, "batch_size": 2}, model={"model": str(other)})
    for line in (
        "the recipe and the data and the model differ from what this run was started with",
        "  recipe: training.batch_size was 1, is 2",
        "  data: 1 image added, 1 image removed, 1 image changed",
        f"(for example {photos}/00.png)",
        "  model: other weights of the denoiser",
    ):
        assert line in str(caught.value)
    shutil.rmtree(tmp_path / "runs" / "tiny" / "data")
    with pytest.raises(
        RecipeError, match="data: images, captions or .* \\(data/.*.json, which would tell which, cannot"
    ):
        run(resume=True, training={"steps": 2})


def test_a_section_that_goes_is_one_change(run: Train) -> None:
    """Not one for each of its keys, whose values are of no interest any more."""
    run(training={"steps": 1}, ema={"decay": 0.5})
    with pytest.raises(RecipeError, match=r"\n  recipe: ema was set, is not set\nMay") as caught:
        run(resume=True, training={"steps": 2})
    assert str(caught.value).endswith("from here on: --force-change ema")
    assert run(resume=Resume(forced=("ema",)), training={"steps": 2}).outcome.step == 2


def test_what_changed_is_told_by_the_data_of_the_state_in_hand(run: Train, photos: Path) -> None:
    """Insisted on a change, and stopped before another state: the saved one is still that of the first data."""
    run(training={"steps": 2, "save_every": 1})
    (photos / "00.txt").write_text("another caption")
    run(resume=Resume(forced=("data",)), training={"steps": 2, "save_every": 1})
    with pytest.raises(RecipeError, match=r"data: 1 image changed .*00.png"):
        run(resume=True, training={"steps": 3})
    run(resume=Resume(forced=("data",)), training={"steps": 3, "save_every": 1})
    (photos / "00.txt").unlink()
    (photos / "01.png").unlink()
    with pytest.raises(RecipeError, match=r"data: 1 image removed, 1 image changed"):
        run(resume=Resume(step=3), training={"steps": 4})


def test_another_scheduler_is_another_run(run: Train, tiny_model: Path, tmp_path: Path) -> None:
    """The noise that a model is trained at may depend on it."""
    model = shutil.copytree(tiny_model, tmp_path / "other")
    run(training={"steps": 1}, model={"model": str(model)})
    config = model / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "shift": 2.0}))
    with pytest.raises(RecipeError, match="\n  model: another config of the scheduler"):
        run(resume=True, training={"steps": 2}, model={"model": str(model)})


def test_fewer_steps_than_were_made_are_remarked(run: Train) -> None:
    run(training={"steps": 2})
    again = run(resume=True, training={"steps": 1})
    assert "training.steps = 1: more are made already" in again.log.texts


def test_a_warm_up_that_is_a_share_of_the_steps_keeps_their_number(run: Train) -> None:
    data = {"tag_warmup_steps": 0.5, "tag_separator": " "}
    run(training={"steps": 2}, data=data)
    with pytest.raises(RecipeError, match="steps \\(where no tag_warmup_steps is a share of them\\)"):
        run(resume=True, training={"steps": 4}, data=data)


def test_a_state_that_is_removed_meanwhile_does_not_end_the_run(run: Train) -> None:
    def remove(event: Event) -> None:
        if isinstance(event, FileSaved) and (event.what, event.step) == ("state", 2):
            shutil.rmtree(event.path)

    previews = {"every": 2, "steps": 1, "prompts": ["a"], "baseline": False}
    found = run(training={"steps": 3, "save_every": 2}, previews=previews, watch=remove)
    assert found.outcome.exit_code == 0


def test_pictures_that_lie_elsewhere_are_the_same(run: Train, photos: Path, tmp_path: Path) -> None:
    run(training={"steps": 1})
    moved = photos.rename(tmp_path / "elsewhere")
    assert run(resume=True, training={"steps": 2}, data={"folder": str(moved)}).outcome.step == 2
    (moved / "00.png").unlink()
    with pytest.raises(RecipeError, match="data: 1 image removed \\(for example"):
        run(resume=True, training={"steps": 3}, data={"folder": str(moved)})


def test_a_lora_that_is_continued_counts_by_what_is_in_it(run: Train, tmp_path: Path) -> None:
    first, second = (
        run(into=f"r{seed}", seed=seed, training={"steps": 1}).outcome.files[0] for seed in (1, 2)
    )
    start = Path(shutil.copy(first, tmp_path / "start.safetensors"))
    run(training={"steps": 1}, adapter={"init_from": str(start)})
    moved = start.rename(tmp_path / "moved.safetensors")
    assert run(resume=True, training={"steps": 2}, adapter={"init_from": str(moved)}).outcome.step == 2
    shutil.copy(second, moved)
    with pytest.raises(
        RecipeError, match="recipe: adapter.init_from is another file, or one with other values"
    ):
        run(resume=True, training={"steps": 3}, adapter={"init_from": str(moved)})


def as_told(event: Event) -> tuple[Any, ...]:
    """What a run did or showed: (what, step, with which result); nothing for other events, and for states."""
    match event:
        case StepFinished():
            return "step", event.step, event.loss
        case ValidationFinished():
            return "validation", event.step, event.loss
        case PreviewSaved():
            return "preview", event.step, Path(event.path).name
        case FileSaved() if event.what != "state":
            return event.what, event.step, Path(event.path).name
    return ()


def shown(run: Run) -> list[tuple[Any, ...]]:
    """All that, in order."""
    return [told for event in run.log.seen if (told := as_told(event))]


SHOWING: dict[str, Any] = {
    "training": {"steps": 4, "save_every": 2},
    "validation": {"share": 0.2, "every": 2},
    "previews": {"every": 2, "steps": 1, "prompts": ["a", "b", "c"]},
    "ema": {"decay": 0.5},
}


@pytest.mark.parametrize(
    "asked_at",
    [
        ("preview", 0, "00.png"), ("step", 2), ("validation", 2), ("preview", 2, "01.png"), ("step", 4), ("preview", 4, "00.png"), ("preview", 4, "01-ema.png"),
    ],
)  # fmt: skip
def test_what_was_due_when_a_run_was_stopped_is_shown_exactly_once(
    run: Train, asked_at: tuple[Any, ...]
) -> None:
    straight = run(into="straight", **SHOWING)

    def interrupt(event: Event) -> None:
        if as_told(event)[: len(asked_at)] == asked_at:
            signal.raise_signal(signal.SIGINT)

    stopped = run(watch=interrupt, **SHOWING)
    assert stopped.outcome.exit_code == 75
    resumed = run(resume=True, **SHOWING)
    assert resumed.outcome.exit_code == 0
    told = shown(stopped) + shown(resumed)
    # written again by the run that is resumed at its last step
    finished = [("adapter", 4, f"tiny-000004{label}.safetensors") for label in ("", "-ema")]
    once = [one for n, one in enumerate(told) if one not in finished or one not in told[:n]]
    assert once == shown(straight)
    assert results(resumed) == results(straight)
    again = run(resume=True, **SHOWING)
    assert shown(again) == finished


def test_a_damaged_state_costs_the_steps_since_the_one_before(run: Train) -> None:
    common: dict[str, Any] = {"optimizer": {"schedule": "constant"}}
    first = run(**common, training={"steps": 4, "save_every": 2})
    values = first.folder / "state" / "000004" / "values.safetensors"
    whole = values.read_bytes()
    values.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    again = run(resume=True, **common, training={"steps": 4, "save_every": 2})
    assert "state 4 is damaged and is skipped" in again.log.texts
    assert "going on after step 2" in again.log.texts
    assert again.losses == first.losses[2:]
    assert values.read_bytes() == whole


def test_a_finished_run_that_is_resumed_says_so_and_changes_nothing(run: Train) -> None:
    first = run(training={"steps": 2})
    before = results(first)
    again = run(resume=True, training={"steps": 2})
    assert (again.outcome.exit_code, again.outcome.step) == (0, 2)
    assert not again.losses
    assert results(again) == before


def test_resuming_what_was_never_begun_starts_it(run: Train) -> None:
    found = run(resume=True, training={"steps": 1})
    assert "no saved state yet: starting at step 0" in found.log.texts
    assert found.outcome.step == 1


def test_a_second_run_of_that_name_is_refused(run: Train) -> None:
    run(training={"steps": 1})
    with pytest.raises(RecipeError, match="already holds a run"):
        run(training={"steps": 1})
    with pytest.raises(RecipeError, match="already holds a run"):  # before the images are looked for
        run(training={"steps": 1}, data={"folder": "nowhere"})


def test_ctrl_c_while_preparing_keeps_what_was_encoded(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    from velatura.families.flux import FluxFamily

    encode, calls = FluxFamily.encode_image, []

    def interrupted(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return encode(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(FluxFamily, "encode_image", interrupted)
        stopped = run(training={"steps": 1})
    assert (stopped.outcome.exit_code, stopped.outcome.step) == (75, 0)
    assert "stopped before a step was made" in stopped.log.texts
    again = run(training={"steps": 1})  # nothing was begun: no --resume is needed
    assert "encoded 2 images" in again.log.texts  # of 6: the batch of four was kept
    straight = run(into="straight", training={"steps": 1})
    assert equal(again.state(), straight.state())
