"""The planned peak of a step beside what the allocator counts in a real training of the same recipe."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.profiler import ProfilerActivity, profile

from velatura.events import Event, Events, PreviewSaved, StepFinished
from velatura.planning import repeats
from velatura.planning.devices import KNOWN, device_named
from velatura.planning.estimate import Estimate, Estimator
from velatura.planning.measuring import _highest, live_bytes, measure
from velatura.recipe.recipe import Recipe
from velatura.training.run import train

from ..tiny import recipe, write_pictures
from .conftest import sections

CPU = device_named("cpu")
H200 = KNOWN["h200"]
GIB = 2**30


def estimated(wanted: Recipe, base: Path) -> Estimate:
    return Estimator.of_recipe(wanted, base, CPU).of(wanted)


def of_step(wanted: Recipe, base: Path) -> int:
    """The peak of a step with the data that is in memory beside it."""
    estimate = estimated(wanted, base)
    return estimate.step.peak.total + estimate.sizes.data


def precise(**training: Any) -> dict[str, Any]:
    return {"training": training}


def slow(changes: Any) -> Any:
    return pytest.param(changes, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "changes",
    [
        precise(),
        {"full": {}, **precise(accumulate=2, precision="bf16", checkpoint_blocks=True)},
        slow(precise(batch_size=2, checkpoint_blocks=True)),
        slow({"adapter": {"targets": ["attention"]}, **precise(precision="bf16", checkpoint_blocks="mlp")}),
        precise(checkpoint_blocks=3),
        slow(precise(accumulate=2, checkpoint_blocks=2)),
        slow(precise(batch_size=2, checkpoint_blocks=20)),
        {"memory": {"micro_batch": 1}, **precise(batch_size=2)},
        slow({"full": {}, "memory": {"micro_batch": 1, "cache": False}, **precise(batch_size=2)}),
        slow({"full": {}, **precise(batch_size=2, checkpoint_blocks=2)}),
        slow({"full": {}, **precise(batch_size=2, checkpoint_blocks=3)}),
        slow({"full": {}, **precise(precision="bf16", checkpoint_blocks=20)}),
        slow({"full": {}, **precise(batch_size=2)}),
        slow({"full": {}, "optimizer": {"kind": "muon"}}),
        slow({"full": {}, "optimizer": {"kind": "adamw8bit", "clip": 0, "fused_backward": True}}),
        slow({"full": {"weights": "bf16"}, "optimizer": {"kind": "adafactor"}, **precise(precision="bf16")}),
        slow({"full": {}, "optimizer": {"kind": "torch.optim.Adam"}}),
        slow({"memory": {"weights": "fp8"}}),
        slow({"memory": {"weights": "int8"}}),
        slow({"memory": {"cache": False}}),
        slow({"memory": {"cache": False}, **precise(batch_size=2, precision="bf16")}),
        slow({"memory": {"split_attention": True}, **precise(batch_size=2)}),
        slow({"ema": {"decay": 0.9}}),
        slow({"adapter": {"targets": ["attention", "mlp", "modulation"]}}),
        slow({"full": {"parts": ["autoencoder"]}, "objective": {"kind": "autoencoder"}}),
    ],
    ids=str,
)
def test_a_step_of_flux_within_5_percent(
    tmp_path: Path, photos: Path, flux: Path, changes: dict[str, Any]
) -> None:
    wanted = recipe(tmp_path, flux, **sections(**changes))
    assert of_step(wanted, tmp_path) == pytest.approx(measure(wanted, tmp_path).peak, rel=0.05)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_what_is_streamed_and_trained_keeps_no_casts(
    tmp_path: Path, photos: Path, flux: Path, share: float
) -> None:
    """Autocast's copies of its weights: of blocks, and of layers that run ahead of them."""
    changes = {"full": {}, "memory": {"streamed": share}, **precise(precision="bf16")}
    wanted = recipe(tmp_path, flux, **sections(**changes))
    gone = estimated(wanted, tmp_path).away
    planned = of_step(wanted, tmp_path) + gone.host + gone.gradients
    assert planned == pytest.approx(measure(wanted, tmp_path).peak, rel=0.025)


@pytest.mark.parametrize(
    "changes",
    [
        precise(checkpoint_blocks=3),
        slow(precise()),
        slow(precise(checkpoint_blocks=True, batch_size=2)),
        slow(precise(checkpoint_blocks=2, batch_size=2)),
        slow(precise(checkpoint_blocks=20, batch_size=2)),
        slow({"full": {}}),
        slow({"full": {}, **precise(checkpoint_blocks=2)}),
    ],
    ids=str,
)
def test_a_step_of_sd1_within_5_percent(
    tmp_path: Path, photos: Path, sd1: Path, changes: dict[str, Any]
) -> None:
    wanted = recipe(tmp_path, sd1, **sections(**changes))
    assert of_step(wanted, tmp_path) == pytest.approx(measure(wanted, tmp_path).peak, rel=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {"memory": {"streamed": 1.0}},
        slow({"full": {}, "memory": {"streamed": 0.5}}),
        slow({"full": {}, "optimizer": {"offload": True}}),
        slow({"full": {}, "ema": {"decay": 0.9, "device": "cpu"}}),
    ],
    ids=str,
)
def test_on_the_cpu_nothing_is_elsewhere(
    tmp_path: Path, photos: Path, flux: Path, changes: dict[str, Any]
) -> None:
    """What waits in the machine's memory is in the device's."""
    wanted = recipe(tmp_path, flux, **sections(**changes, **precise()))
    estimate = estimated(wanted, tmp_path)
    planned = estimate.occupied(estimate.step) - estimate.sizes.host["program"]
    assert planned == pytest.approx(measure(wanted, tmp_path).peak, rel=0.05)


@pytest.mark.parametrize(
    ("batch", "most", "planned", "passes"), [(5, 4, 4, 2), (4, 2, 2, 2), (4, 9, 4, 1), (4, None, 4, 1)]
)
def test_a_pass_may_have_as_many_images_as_it_is_allowed(
    tmp_path: Path, photos: Path, flux: Path, batch: int, most: int | None, planned: int, passes: int
) -> None:
    """The last batch of an epoch may be of just that size, and is not split evenly then."""
    changes = {"memory": {"micro_batch": most}, **precise(batch_size=batch)}
    work = estimated(recipe(tmp_path, flux, **sections(**changes)), tmp_path).work
    shape, found = work.largest_pass(28)
    assert (shape.count, found) == (planned, passes)
    assert work.accumulates == (passes > 1)


def test_the_batch_that_takes_most_is_planned(tmp_path: Path, photos: Path, flux: Path) -> None:
    """64 image tokens: 4 small images with 28 text tokens each take more than a large one, which is encoded ahead."""

    def wanted(sizes: list[int]) -> Recipe:
        training = precise(batch_size=1, batch_tokens=64)
        output = {"folder": str(tmp_path / f"runs-{len(sizes)}-{sizes[0]}")}
        return recipe(tmp_path, flux, **sections(data={"resolution": sizes}, output=output, **training))

    phases = {phase.name: phase.what for phase in estimated(wanted([64, 128]), tmp_path).phases}
    assert (phases["step"], phases["latents"]) == ("64x64 x 4", "128x128 x 4")
    small, large = (measure(wanted([size]), tmp_path).peak for size in (64, 128))
    assert small > large
    assert of_step(wanted([64, 128]), tmp_path) == pytest.approx(small, rel=0.05)


@pytest.mark.parametrize("kept", ["mean", "sample"])
def test_caches_on_disk(tmp_path: Path, own_cache: Path, flux: Path, kept: str) -> None:
    """Latents are float32 whatever the precision; each file has a header of some hundred bytes."""
    write_pictures(tmp_path / "photos", [(256, 256)] * 8)
    memory = {"cached_latents": kept}
    wanted = recipe(tmp_path, flux, **sections(memory=memory, **precise(precision="bf16", steps=1)))
    sizes = estimated(wanted, tmp_path).sizes
    train(wanted, tmp_path, events=Events())
    shards = sum(path.stat().st_size for path in own_cache.rglob("*.safetensors"))
    planned = sizes.disk["cached latents"], sizes.disk["cached captions"]
    assert None not in planned
    assert sum(filter(None, planned)) == pytest.approx(shards, rel=0.02)


@pytest.mark.parametrize(("weights", "aside"), [("bf16", 2), ("fp32", 0)])
def test_averages_in_the_place_of_narrow_weights_need_room_for_those(
    tmp_path: Path, photos: Path, flux: Path, weights: str, aside: int
) -> None:
    """They are shown when they are written, at the end, also without previews; float32 weights change places."""
    changes: dict[str, Any] = {"full": {"weights": weights}, "ema": {}, **precise(precision=weights)}
    wanted = recipe(tmp_path, flux, **sections(**changes))
    estimate = estimated(wanted, tmp_path)
    phases = {phase.name: phase.peak for phase in estimate.phases}
    assert ("export" in phases) is bool(aside)
    if aside:
        assert phases["export"]["averages"] == (4 + aside) * estimate.trained
        assert phases["step"]["averages"] == 4 * estimate.trained
        assert phases["export"]["gradients"] == 0


def test_flux_dev_needs_no_files(tmp_path: Path, flux_dev: Callable[..., Recipe]) -> None:
    """Arithmetic of 11,901,408,320 weights in bf16, 56,033,280 LoRA values in float32, T5-XXL and CLIP-L."""
    wanted = flux_dev()
    estimate = Estimator.of_recipe(wanted, tmp_path, H200).of(wanted)
    step, captions = estimate.step.peak, estimate.phases[0].peak
    assert estimate.trained == 56_033_280
    assert step["denoiser"] == 2 * 11_901_408_320
    assert step["trained"] == 4 * 56_033_280
    assert step["optimizer"] == pytest.approx(8 * 56_033_280, rel=1e-4)
    assert captions["text encoders"] == pytest.approx(2 * (4_762_310_656 + 123_060_480), rel=1e-4)
    # T5-XXL without its embedding, 512 tokens of 8 texts; attention in 24 blocks of width 4096
    t5 = 2 * (4_762_310_656 - 32_128 * 4096) * 512 * 8 + 24 * 4 * 512**2 * 4096 * 8
    assert estimate.phases[0].work.flops == pytest.approx(t5, rel=0.01)
    # each of 57 blocks: 12 d^2 products per token, forward and for the input's gradient; attention 4 L^2 d, and 2.5
    # times that backward, since flash attention computes its weights again
    attention = 57 * 4 * 4608**2 * 3072
    lora = 6 * 56_033_280 * 4608
    linear = 2 * 2 * 57 * 12 * 3072**2 * 4608
    assert estimate.step.work.flops == pytest.approx(linear + 3.5 * attention + lora, rel=0.05)
    assert len(estimate.work.remarks) == 2


@pytest.mark.slow
def test_blocks_that_are_left_out_change_nothing(
    tmp_path: Path, photos: Path, flux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe(tmp_path, flux, **sections(training={"checkpoint_blocks": True}))
    estimator = Estimator.of_recipe(wanted, tmp_path, CPU)
    pruned = estimator.of(wanted).step
    monkeypatch.setattr(repeats, "KEPT", 100)
    followed = Estimator.of_recipe(wanted, tmp_path, CPU).of(wanted).step
    assert pruned.peak.total == pytest.approx(followed.peak.total, rel=0.002)
    assert pruned.work.flops == pytest.approx(followed.work.flops, rel=0.002)


@pytest.mark.slow
def test_less_is_held_where_more_is_recomputed(tmp_path: Path, flux_dev: Callable[..., Recipe]) -> None:
    policies = ("false", "mlp", "2", "true")
    recipes = [flux_dev(f"training.checkpoint_blocks={policy}") for policy in policies]
    estimator = Estimator.of_recipe(recipes[0], tmp_path, H200)
    peaks = [estimator.of(one).step.peak["activations"] for one in recipes]
    flops = [estimator.of(one).step.work.flops for one in recipes]
    assert sorted(peaks, reverse=True) == peaks
    assert peaks[0] > 1.3 * peaks[1] > 5 * peaks[3]
    assert flops == sorted(flops)


def test_streamed_weights_leave_the_device_but_for_their_slots(
    tmp_path: Path, flux_dev: Callable[..., Recipe]
) -> None:
    wanted = flux_dev("memory.streamed=1.0", "training.checkpoint_blocks=true")
    estimate = Estimator.of_recipe(wanted, tmp_path, H200).of(wanted)
    double, single = 2 * 12 * 3072**2 * 2, 12 * 3072**2 * 2  # bytes, but for biases and norms
    outside = 2 * 71e6  # embedders and the last layer
    assert estimate.sizes.host["streamed weights, pinned"] > 23.5e9
    assert estimate.step.peak["denoiser"] == pytest.approx(
        2 * double + outside + 4 * 6 * 3072**2 * 2, rel=0.05
    )
    assert single < double


def test_split_attention_holds_one_more_output_at_its_peak(tmp_path: Path, photos: Path, flux: Path) -> None:
    """The join of its items: 2 images, 64 + 28 tokens, 2 heads of 32 values, float32.

    Layers after it take slices of it, of their own, so that it does not wait for the backward pass.
    """
    whole = recipe(tmp_path, flux, **sections(**precise(batch_size=2)))
    split = recipe(tmp_path, flux, **sections(**precise(batch_size=2), memory={"split_attention": True}))
    estimator = Estimator.of_recipe(whole, tmp_path, CPU)
    before, after = (estimator.of(one).step for one in (whole, split))
    assert after.kept == before.kept
    assert 0 < after.peak.total - before.peak.total <= 2 * (64 + 28) * 2 * 32 * 4


def test_text_encoders_of_an_fp8_file_take_a_byte_for_each_weight_of_a_linear_layer(
    tmp_path: Path, photos: Path, flux: Path
) -> None:
    """4 bytes for each row besides, as its scale has; whether they run ahead or stay loaded."""
    small, wide, narrow = _with_fp8_t5(flux, tmp_path / "small")
    for cache in (True, False):
        sets = sections(memory={"cache": cache})
        before, after = (estimated(recipe(tmp_path, one, **sets), tmp_path) for one in (flux, small))
        saved = before.phases[0].peak["text encoders"] - after.phases[0].peak["text encoders"]
        assert saved == wide - narrow > 0


def test_trained_text_encoders_of_an_fp8_file_are_widened(tmp_path: Path, photos: Path, flux: Path) -> None:
    small, _, _ = _with_fp8_t5(flux, tmp_path / "small")
    sets = sections(full={"parts": ["text_encoders"]})
    before, after = (estimated(recipe(tmp_path, one, **sets), tmp_path) for one in (flux, small))
    assert before.step.peak == after.step.peak


def _with_fp8_t5(flux: Path, folder: Path) -> tuple[Path, int, int]:
    """A copy of a model with its T5 in fp8; bytes of the linear layers of that in float32, and as they are held."""
    shutil.copytree(flux, folder)
    (file,) = (folder / "text_encoder_2").glob("*.safetensors")
    tensors = load_file(file)
    save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}, file)
    linear = [
        t
        for name, t in tensors.items()
        if t.ndim == 2
        and name.endswith(
            ("q.weight", "k.weight", "v.weight", "o.weight", "wi_0.weight", "wi_1.weight", "wo.weight")
        )
    ]
    return folder, sum(4 * t.numel() for t in linear), sum(t.numel() + 4 * len(t) for t in linear)


def test_text_encoders_that_run_in_the_machines_memory_are_counted_there(
    tmp_path: Path, flux_dev: Callable[..., Recipe]
) -> None:
    """T5-XXL and CLIP-L in bf16; on the CPU that is the device itself."""
    wanted = flux_dev("memory.text_encoders=cpu")
    estimator = Estimator.of_recipe(wanted, tmp_path, H200)
    estimate = estimator.of(wanted)
    weights = 2 * (4_762_310_656 + 123_060_480)
    assert 1 < estimate.sizes.host["text encoders"] / weights < 1.06  # and what they compute
    assert all(phase.peak["text encoders"] == 0 for phase in estimate.phases)
    assert "text encoders" not in estimator.of(flux_dev()).sizes.host
    assert "text encoders" not in estimated(wanted, tmp_path).sizes.host


def test_what_stays_loaded_is_counted(tmp_path: Path, photos: Path, flux: Path) -> None:
    """Without a cache the encoders run in every step."""
    wanted = recipe(tmp_path, flux, **sections(memory={"cache": False}))
    estimate = estimated(wanted, tmp_path)
    assert {phase.name for phase in estimate.phases} == {"step"}
    assert estimate.step.peak["text encoders"] > 0
    assert estimate.step.peak["autoencoder"] > 0


@pytest.mark.parametrize("backwards", [False, True])
def test_the_preview_that_takes_most_is_planned(
    tmp_path: Path, photos: Path, flux: Path, backwards: bool
) -> None:
    """Of those of one size the one with two texts, wherever it stands."""
    plain, guided = "a cube --w 128 --h 64", "a cube --w 128 --h 64 --l 3"

    def activations(*prompts: str) -> int:
        sets = sections(previews={"prompts": list(prompts), "steps": 40})
        found = estimated(recipe(tmp_path, flux, **sets), tmp_path).phases
        return max(
            moment.held["activations"]
            for phase in found
            if phase.name == "preview"
            for moment in phase.moments
            if moment.kind == "forward"
        )

    both = (plain, guided)[:: -1 if backwards else 1]
    assert activations(*both) == activations(guided) > activations(plain)


@pytest.mark.parametrize(
    "line",
    [
        "a cube --w 128 --h 128 --s 3",
        slow("a cube --w 64 --h 64 --s 40 --l 3"),
    ],
)
def test_a_preview_within_5_percent(tmp_path: Path, photos: Path, flux: Path, line: str) -> None:
    sets = sections(previews={"prompts": [line], "every": 1}, **precise(steps=1))
    wanted = recipe(tmp_path, flux, **sets)
    estimate = estimated(wanted, tmp_path)
    planned = next(phase.peak.total for phase in estimate.phases if phase.name == "preview")
    meter = PreviewMeter()
    train(wanted, tmp_path, events=Events(meter))
    assert planned + estimate.sizes.data == pytest.approx(meter.peak, rel=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        precise(precision="bf16", checkpoint_blocks=True),
        slow(precise(precision="bf16")),
        slow(precise(precision="bf16", checkpoint_blocks=2)),
        slow({"memory": {"streamed": 1.0}, **precise(precision="bf16")}),
        slow({"memory": {"streamed": 0.5}, **precise(precision="bf16")}),
    ],
    ids=str,
)
def test_previews_keep_casts_of_no_more_weights_than_steps_do(
    tmp_path: Path, photos: Path, flux: Path, changes: dict[str, Any]
) -> None:
    """Autocast's copies of trained weights; what is recomputed or streamed has none."""
    changes["training"] = {**changes["training"], "steps": 1}
    previews = {"prompts": ["a cube --w 128 --h 128 --s 3"], "every": 1}
    wanted = recipe(tmp_path, flux, **sections(full={}, previews=previews, **changes))
    estimate = estimated(wanted, tmp_path)
    planned = next(phase for phase in estimate.phases if phase.name == "preview")
    meter = PreviewMeter()
    train(wanted, tmp_path, events=Events(meter))
    assert estimate.occupied(planned) - estimate.sizes.host["program"] == pytest.approx(meter.peak, rel=0.05)


def test_weights_that_are_trained_are_loaded_before_they_are_streamed(
    tmp_path: Path, photos: Path, flux: Path
) -> None:
    """All of them, in the machine's memory; later there are those that stay there, and their gradients."""
    found = {}
    for share in (0.0, 0.1, 1.0):
        wanted = recipe(tmp_path, flux, **sections(full={}, memory={"streamed": share}, **precise()))
        estimate = Estimator.of_recipe(wanted, tmp_path, KNOWN["4090"]).of(wanted)
        host = estimate.sizes.host
        found[share] = host.get("denoiser while it is loaded")
        whole = estimate.trained * 4
        later = sum(size for name, size in host.items() if "pinned" in name)
        if share == 0.1:
            assert found[share] == pytest.approx(whole - later, rel=0.01)
    assert found[0.0] is None
    assert found[1.0] == 0


class PreviewMeter:
    """Follows the allocator from the end of step 1 to the preview after it."""

    def __init__(self) -> None:
        self.others = live_bytes()
        self.profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self.peak = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepFinished):
            self.peak = live_bytes() - self.others
            self.profile.start()
        elif isinstance(event, PreviewSaved) and event.step == 1:
            self.profile.stop()
            self.peak += _highest(self.profile)
