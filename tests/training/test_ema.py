from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from velatura.checkpoints.reader import TensorFile
from velatura.recipe.training import ema as section
from velatura.training.ema import Ema, decay_at
from velatura.training.trainables import Trainables

from .conftest import Run, Train, equal


@pytest.fixture
def trainables() -> Trainables:
    parameters = {"x": nn.Parameter(torch.tensor([1.0, -4.0]))}
    return Trainables(parameters=parameters, adapter=None, parts=("denoiser",), report="")


def ema_of(trainables: Trainables, **keys: Any) -> Ema:
    return Ema(trainables, section.Ema(**keys))


def move(trainables: Trainables, *values: float) -> None:
    trainables.set_values({"x": torch.tensor(values)})


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_formula_with_its_ramp(trainables: Trainables, device: str) -> None:
    """decay = min(0.3, (1 + step) / (10 + step)): 2/11, 3/12, then 0.3."""
    ema = ema_of(trainables, decay=0.3, device=device)
    expected = 1.0
    for step, (value, decay) in enumerate([(3.0, 2 / 11), (-2.0, 3 / 12), (5.0, 0.3), (1.0, 0.3)], start=1):
        move(trainables, value, 0.0)
        ema.update(step, 4)
        expected = decay * expected + (1 - decay) * value
        assert ema.average["x"][0].item() == pytest.approx(expected, rel=1e-6)


def test_the_ramp_counts_updates_and_not_steps(trainables: Trainables) -> None:
    """Every third step: after 3 and 6 of 8 steps, with 2/11 and 3/12."""
    ema = ema_of(trainables, every=3)
    expected = 1.0
    for step in range(1, 9):
        move(trainables, float(step), 0.0)
        ema.update(step, 8)
        if step in (3, 6):
            decay = {3: 2 / 11, 6: 3 / 12}[step]
            expected = decay * expected + (1 - decay) * step
        assert ema.average["x"][0].item() == pytest.approx(expected, rel=1e-6)


def test_a_strength_is_the_share_of_the_start_that_is_left(trainables: Trainables) -> None:
    """The start is 1, all values after it are 0: what is left is the share. d = 0.1^(5 / 1000) = 0.98855."""
    ema = ema_of(trainables, strength=0.1, every=5)
    assert decay_at(ema.recipe, 5, 1000) == pytest.approx(0.98855, abs=5e-6)
    move(trainables, 0.0, 0.0)
    for step in range(1, 1001):
        ema.update(step, 1000)
    assert ema.average["x"].tolist() == pytest.approx([0.1, -0.4], rel=1e-4)


def test_everydream2_has_no_ramp(trainables: Trainables) -> None:
    """E <- d E + (1 - d) value at steps 2 and 4: 0.9^2 of the start is left."""
    ema = ema_of(trainables, decay=0.9, every=2, compat="everydream2")
    move(trainables, 0.0, 0.0)
    for step in range(1, 6):
        ema.update(step, 5)
    assert ema.average["x"].tolist() == pytest.approx([0.81, -3.24])


def test_the_average_is_apart_from_the_values(trainables: Trainables) -> None:
    ema = ema_of(trainables)
    move(trainables, 7.0, 7.0)
    assert ema.average["x"].tolist() == [1.0, -4.0]


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_in_place_shows_the_average_and_gives_the_values_back(trainables: Trainables, device: str) -> None:
    ema = ema_of(trainables, device=device)
    move(trainables, 0.1, 0.2)
    ema.update(1, 9)
    own, average = trainables.values()["x"].clone(), ema.average["x"].clone()
    with ema.in_place():
        assert torch.equal(trainables.values()["x"], average)
        assert not torch.equal(average, own)
    with pytest.raises(ZeroDivisionError), ema.in_place():
        raise ZeroDivisionError
    assert torch.equal(trainables.values()["x"], own)
    assert torch.equal(ema.average["x"], average)


def test_averages_of_narrow_weights_are_not_rounded_by_being_shown() -> None:
    """They have more digits than the weights in whose place they are for a while."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -4.0], dtype=torch.bfloat16))
    ema = ema_of(Trainables(parameters={"x": weight}, adapter=None, parts=(), report=""))
    ema.load({"x": torch.tensor([1.001, -3.999])})
    with ema.in_place():
        assert weight.tolist() == [1.0, -4.0]  # as bf16 has them
        assert ema.average["x"].tolist() == pytest.approx([1.001, -3.999], abs=1e-7)
    ema.load({"x": torch.tensor([2.001, -3.999])})
    with ema.in_place():
        assert weight.tolist() == [2.0, -4.0]
    assert weight.tolist() == [1.0, -4.0]
    assert ema.average["x"].tolist() == pytest.approx([2.001, -3.999], abs=1e-7)


def test_load(trainables: Trainables) -> None:
    ema = ema_of(trainables)
    saved = {"x": torch.tensor([9.0, 8.0])}
    ema.load(saved)
    assert ema.average["x"].tolist() == [9.0, 8.0]
    assert ema.average["x"] is not saved["x"]


def names(folder: Path, pattern: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern))


def up_of(file: Path) -> torch.Tensor:
    """The first up projection in a kohya file."""
    with TensorFile(file) as held:
        return held.read(next(key for key in held if "lora_up" in key))


TRAINED: dict[str, Any] = {
    "training": {"steps": 4, "save_every": 2},
    "previews": {"prompts": ["a cube", "a cone"], "every": 4, "steps": 1},
}


def test_raw_weights_and_averages_are_saved_and_painted_side_by_side(run: Train, tmp_path: Path) -> None:
    """Before the first step both are the same, and one is painted."""
    plain = run(into="plain", **TRAINED)
    with_ema = run(**TRAINED, ema={"strength": 0.5})
    adapters = "adapters/*.safetensors"
    saved = names(with_ema.folder, adapters)
    assert saved == [
        f"adapters/tiny-00000{step}{label}.safetensors" for step in (2, 4) for label in ("-ema", "")
    ]
    assert [path.name for path in with_ema.outcome.files] == [
        "tiny-000004.safetensors",
        "tiny-000004-ema.safetensors",
    ]
    for file in names(plain.folder, adapters):
        assert torch.equal(up_of(plain.folder / file), up_of(with_ema.folder / file))
        average = file.replace(".safetensors", "-ema.safetensors")
        assert not torch.equal(up_of(with_ema.folder / file), up_of(with_ema.folder / average))
    with TensorFile(with_ema.folder / "adapters" / "tiny-000004-ema.safetensors") as held:
        assert held.metadata["modelspec.title"] == "tiny (average)"
    assert names(with_ema.folder, "previews/*/*.png") == [
        "previews/000000/00.png",
        "previews/000000/01.png",
        *(f"previews/000004/{file}.png" for file in ("00-ema", "00", "01-ema", "01")),
    ]
    raw, average = (with_ema.folder / "previews" / "000004" / name for name in ("00.png", "00-ema.png"))
    assert (
        raw.read_bytes()
        == (plain.folder / "previews" / "000004" / "00.png").read_bytes()
        != average.read_bytes()
    )
    page = (with_ema.folder / "previews" / "index.html").read_text()
    assert page.index("step 4<") < page.index("step 4, average<")
    assert "a cube<br><b>by the average of the weights</b>" in (with_ema.folder / "report.html").read_text()


@pytest.mark.parametrize(("kept", "files"), [("average", ["-ema"]), ("raw", [""])])
def test_one_of_both_alone(run: Train, kept: str, files: list[str]) -> None:
    done = run(**TRAINED, ema={"saved": kept, "previewed": kept})
    assert names(done.folder, "adapters/tiny-000004*") == [
        f"adapters/tiny-000004{label}.safetensors" for label in files
    ]
    assert names(done.folder, "previews/000004/*.png") == [
        f"previews/000004/{number}{label}.png" for number in ("00", "01") for label in files
    ]


def test_whole_models_too(run: Train) -> None:
    done = run(training={"steps": 1}, full={"parts": ["denoiser"]}, ema={})
    assert names(done.folder, "model-*") == ["model-000001", "model-000001-ema"]


@pytest.mark.parametrize(
    "keys",
    [{"strength": 0.3, "every": 2}, {"every": 3, "device": "cpu"}, {"compat": "everydream2", "decay": 0.5}],
)
def test_a_resumed_average_is_that_of_a_run_that_was_never_stopped(run: Train, keys: dict[str, Any]) -> None:
    """The stop comes between two updates. What is saved and painted may change on the way."""
    settings: dict[str, Any] = {"training": {"steps": 7}, "optimizer": {"learning_rate": 0.01}}
    whole = run(into="whole", ema=keys, **settings)
    run(ema=keys, stop_after=4, **settings)
    resumed: Run = run(ema={**keys, "saved": "average", "previewed": "raw"}, resume=True, **settings)
    assert equal(resumed.state("average"), whole.state("average"))
    assert equal(resumed.state(), whole.state())


def test_previews_that_a_stop_left_out_are_painted_with_their_weights(run: Train) -> None:
    """Stopped by the second of four pictures of the last step; the others come with --resume."""
    import signal

    from velatura.events import Event, PreviewSaved

    done: list[str] = []

    def interrupt(event: Event) -> None:
        if isinstance(event, PreviewSaved) and event.step == 4:
            done.append(Path(event.path).name)
            if len(done) == 3:
                signal.raise_signal(signal.SIGINT)

    stopped = run(**TRAINED, ema={}, watch=interrupt)
    assert "1 preview of step 4 left out" in stopped.log.texts
    assert done == ["00.png", "01.png", "00-ema.png"]
    resumed = run(**TRAINED, ema={}, resume=True)
    assert [Path(event.path).name for event in resumed.log.of(PreviewSaved)] == ["01-ema.png"]
    whole = run(into="whole", **TRAINED, ema={})
    for name in ("00.png", "00-ema.png", "01.png", "01-ema.png"):
        there = [one.folder / "previews" / "000004" / name for one in (resumed, whole)]
        assert there[0].read_bytes() == there[1].read_bytes()
