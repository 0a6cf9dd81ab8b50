"""Previews: what their lines ask for, and that a request to stop does not wait for all of them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from velatura.errors import NumericError, RecipeError
from velatura.events import Event, PhaseFinished, PhaseProgress, PhaseStarted, PreviewSaved, StepFinished
from velatura.families.flux import FluxFamily
from velatura.recipe.sampling.previews import Previews
from velatura.sampling.png import read_record
from velatura.training.previews import plan_previews

from ..tiny import Log, load, recipe
from .conftest import Train


def plan(tiny_model: Path, *prompts: str, size: int = 75, **options: Any) -> list[Any]:
    return plan_previews(Previews(prompts=list(prompts), **options), load(tiny_model)[1].info, size=size)


def test_lines_win_over_the_section_and_that_over_the_model(tiny_model: Path) -> None:
    plain, told = plan(
        tiny_model, "a", "b --w 48 --h 96 --s 7 --l 3 --d 5 --n dark", steps=9, negative="ugly"
    )
    assert (plain.width, plain.height, plain.steps, plain.seed, plain.negative) == (64, 64, 9, 0, "ugly")
    assert (told.width, told.height, told.steps, told.seed, told.negative) == (48, 96, 7, 5, "dark")
    assert (told.cfg, plain.cfg) == (3.0, 1.0)


def test_the_size_is_rounded_down_to_what_the_model_can_paint(tiny_model: Path) -> None:
    for size, expected in ((75, 64), (64, 64), (15, 16)):
        assert plan(tiny_model, "a", size=size)[0].width == expected
    assert plan(tiny_model, "a", size=96)[0].width == 96


def test_sizes_that_the_section_names_are_not_rounded_in_silence(tiny_model: Path) -> None:
    section = Previews(prompts=["a"], size=100)
    with pytest.raises(RecipeError, match="width must be a multiple of 16, received 100"):
        plan_previews(section, load(tiny_model)[1].info, size=64)


def test_each_picture_says_what_it_shows(run: Train) -> None:
    found = run(training={"steps": 1}, previews={"steps": 1, "prompts": ["a red cube --d 3"]})
    first, last = (Path(event.path) for event in found.log.of(PreviewSaved))
    request, facts = read_record(last)
    assert (request.prompt, request.seed, request.width) == ("a red cube", 3, 64)
    assert (read_record(first)[1]["step"], facts["step"]) == ("0", "1")


def test_a_picture_that_is_not_finite_ends_the_run_and_is_not_written(
    run: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    decode = FluxFamily.decode_latents
    monkeypatch.setattr(FluxFamily, "decode_latents", lambda *inputs: decode(*inputs) * float("inf"))
    message = "preview 00 after step 0: the autoencoder gave NaN or infinity in torch.float32"
    with pytest.raises(NumericError, match=message):
        run(training={"steps": 1}, previews={"steps": 1, "prompts": ["a"]})
    assert not list(tmp_path.rglob("previews/**/*.png"))


@pytest.mark.parametrize(
    "trained",
    [
        {"adapter": {"rank": 4}},
        {"full": {}, "ema": {"decay": 0.5, "previewed": "both"}},
        {"full": {}, "optimizer": {"fused_backward": True, "clip": 0.0}},
    ],
    ids=["adapter", "full", "fused"],
)
def test_they_look_the_same_wherever_the_weights_are(run: Train, trained: dict[str, Any]) -> None:
    """Those of the newest weights, and of their average."""
    shown: list[list[bytes]] = []
    for name, memory, share in (
        ("resident", {}, None),
        ("streamed", {"streamed": 1.0}, None),
        ("brought", {"streamed": 1.0}, 0.0),
    ):
        previews = {"every": 1, "steps": 2, "prompts": ["a red cube"], "size": 32, "streamed": share}
        found = run(name=name, training={"steps": 2}, memory=memory, previews=previews, **trained)
        pictures = [Path(event.path) for event in found.log.of(PreviewSaved)]
        shown.append([Image.open(picture).tobytes() for picture in pictures])
    assert len(shown[0]) == 3 + 2 * ("ema" in trained)
    assert shown[1] == shown[0]
    assert shown[2] == shown[0]
    assert len(set(shown[0])) > 2


@pytest.mark.parametrize("policy", [False, True])
def test_those_of_the_average_are_of_the_average_alone(run: Train, policy: bool) -> None:
    """Though autocast has made copies of the other weights just before."""
    shown: dict[str, list[bytes]] = {}
    for kind in ("raw", "average", "both"):
        found = run(
            name=kind,
            training={"steps": 2, "precision": "bf16", "checkpoint_blocks": policy},
            previews={"every": 2, "steps": 2, "prompts": ["a red cube"], "size": 32, "baseline": False},
            full={},
            ema={"decay": 0.999, "previewed": kind},
            optimizer={"learning_rate": 0.01},
        )
        pictures = [Path(event.path) for event in found.log.of(PreviewSaved)]
        shown[kind] = [Image.open(picture).tobytes() for picture in pictures]
    assert shown["raw"] != shown["average"]
    assert shown["both"] == [*shown["raw"], *shown["average"]]


def test_a_request_to_stop_does_not_wait_for_the_other_pictures(
    tmp_path: Path, photos: Path, tiny_model: Path
) -> None:
    from velatura.training.run import train
    from velatura.training.states.resuming import Resume

    log = Log()

    def interrupt(event: Event) -> None:
        if isinstance(event, PreviewSaved) and event.step == 2 and event.path.endswith("00.png"):
            signal.raise_signal(signal.SIGINT)

    log.events.listeners.append(interrupt)
    previews = {"every": 1, "steps": 1, "prompts": ["a", "b", "c"]}
    wanted = recipe(tmp_path, tiny_model, training={"steps": 4}, previews=previews)
    outcome = train(wanted, tmp_path, events=log.events)
    assert (outcome.exit_code, outcome.step) == (75, 2)
    assert [event.step for event in log.of(StepFinished)] == [1, 2]
    assert "2 previews of step 2 left out" in log.texts
    assert train(wanted, tmp_path, resume=Resume(), events=Log().events).exit_code == 0


def test_a_request_to_stop_leaves_the_picture_in_hand_off(
    run: Train, interrupted_in: Callable[[str, int], None]
) -> None:
    """Who asks may kill soon. What was left off is painted from its beginning when the run goes on."""
    settings: dict[str, Any] = {
        "training": {"steps": 3},
        "previews": {"every": 2, "steps": 9, "prompts": ["a", "b"], "baseline": False},
    }
    whole = run(into="whole", **settings)
    interrupted_in("previews", 12)  # in the third step of the second picture
    stopped = run(**settings)
    assert (stopped.outcome.exit_code, stopped.outcome.step) == (75, 2)
    assert [Path(event.path).name for event in stopped.log.of(PreviewSaved)] == ["00.png"]
    assert "1 preview of step 2 left out; --resume paints what is missing" in stopped.log.texts
    resumed = run(**settings, resume=True)
    assert [Path(event.path).name for event in resumed.log.of(PreviewSaved)] == ["01.png", "00.png", "01.png"]
    second = [one.folder / "previews" / "000002" / "01.png" for one in (resumed, whole)]
    assert second[0].read_bytes() == second[1].read_bytes()


def test_a_run_that_goes_on_with_other_previews_paints_those(
    run: Train, interrupted_in: Callable[[str, int], None]
) -> None:
    """Stopped in the third of three; the first is another one then, and the second is there already."""

    def settings(*prompts: str) -> dict[str, Any]:
        section = {"every": 2, "steps": 2, "prompts": list(prompts), "baseline": False}
        return {"training": {"steps": 3}, "previews": section}

    interrupted_in("previews", 5)
    run(**settings("a", "b", "c"))
    painted = run(**settings("other", "b", "c"), resume=True).log.of(PreviewSaved)
    assert [event.prompt for event in painted if event.step == 2] == ["other", "c"]


def test_painting_is_a_phase_of_sampling_steps(run: Train) -> None:
    """Two previews of 3 and 2 steps, before the first step and after the last."""
    found = run(training={"steps": 1}, previews={"steps": 3, "prompts": ["a red cube", "b --s 2"]})
    phases = [event for event in found.log.of(PhaseStarted) if event.phase == "previews"]
    assert [(event.total, event.unit) for event in phases] == [(5, "steps")] * 2
    done = [event.done for event in found.log.of(PhaseProgress) if event.phase == "previews"]
    assert done.count(5) >= 2
    assert len([event for event in found.log.of(PhaseFinished) if event.phase == "previews"]) == 2
