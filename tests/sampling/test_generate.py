"""`generate` end to end on the tiny FLUX: the same order gives the same bytes, and a PNG can be repeated."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from velatura.adapters.attach import put_on_fresh
from velatura.adapters.files import write_adapter
from velatura.adapters.targets import choose
from velatura.errors import CheckpointError, ModelError, RecipeError, StorageError, VelaturaError
from velatura.events import Notice, PhaseFinished, PhaseProgress
from velatura.families import attending
from velatura.placement import attention
from velatura.placement.attention import _attend as sdpa
from velatura.placement.precision.quantised import Weights
from velatura.sampling.generate import generate
from velatura.sampling.history import differences, history_in
from velatura.sampling.order import Order
from velatura.sampling.pipeline import Pipeline
from velatura.sampling.png import read_record, save_png
from velatura.sampling.request import Request

from ..tiny import WIDTH, Log, load, write_flux


@pytest.fixture
def order(tiny_model: Path, tmp_path: Path) -> Order:
    return Order(
        out=tmp_path / "x.png", model=str(tiny_model), prompt="a red cube", seed=5, size=(48, 32), device="cpu",
        precision="fp32",
    )  # fmt: skip


def paint(order: Order, **changes: Any) -> list[Path]:
    return [picture.path for picture in generate(replace(order, **changes), Log().events)]


def like(path: Path, **changes: Any) -> Path:
    """Repeat a picture beside it."""
    (again,) = generate(
        Order(out=path.with_name(f"again-{path.name}"), like=path, device="cpu", **changes), Log().events
    )
    return again.path


def lora(tiny_model: Path, path: Path, seed: int) -> Path:
    family, parts = load(tiny_model)
    assert parts.denoiser is not None
    targets = choose(family.targets(parts.denoiser), ["attention", "mlp"]).targets
    adapter = put_on_fresh(parts.denoiser, targets, rank=2, alpha=2, seed=seed)
    for layer in adapter.layers.values():
        layer.up.data.normal_(0, 0.5, generator=torch.Generator().manual_seed(seed))
    write_adapter(path, adapter, split=True, layout="kohya", dtype=torch.float32, metadata={})
    return path


def levels(path: Path) -> Any:
    return np.asarray(Image.open(path)).astype(int)


def apart(a: Path, b: Path) -> int:
    """Largest difference of two pictures, in levels of 255."""
    return int(np.abs(levels(a) - levels(b)).max())


def test_same_order_same_bytes(order: Order, tmp_path: Path) -> None:
    (first,) = paint(order)
    (second,) = paint(order, out=tmp_path / "deep" / "y.png")
    assert first.read_bytes() == second.read_bytes()
    assert Image.open(first).size == (48, 32)
    for changes in ({"seed": 6}, {"prompt": "a blue cube"}, {"steps": 2}, {"cfg": 2.0}):
        (other,) = paint(order, out=tmp_path / "z.png", **changes)
        assert apart(first, other) > 0, changes


def test_like_repeats_every_place_of_a_batch(order: Order, tmp_path: Path) -> None:
    """Pictures of a batch may differ in the last bit from pictures painted alone, so the place is kept."""
    three = paint(order, batch=3, cfg=2.0, negative="blue")
    assert [path.name for path in three] == ["x-000.png", "x-001.png", "x-002.png"]
    assert min(apart(three[0], three[1]), apart(three[1], three[2])) > 3  # noise of their own
    for path in three:
        assert like(path).read_bytes() == path.read_bytes()


def test_a_series_does_not_depend_on_its_batches(order: Order, tmp_path: Path) -> None:
    """Picture i of a seed has the noise of slot i, however many are painted at once."""
    by_two = paint(order, count=2, batch=2)
    one_by_one = paint(order, count=4, out=tmp_path / "y.png")
    assert len(by_two) == len(one_by_one) == 4
    assert all(apart(a, b) <= 1 for a, b in zip(by_two, one_by_one, strict=True))
    assert apart(by_two[0], by_two[2]) > 3
    assert like(by_two[3]).read_bytes() == by_two[3].read_bytes()


def test_several_loras_act_by_their_weights(order: Order, tiny_model: Path, tmp_path: Path) -> None:
    a, b = (lora(tiny_model, tmp_path / f"{i}.safetensors", i) for i in (1, 2))
    (bare,) = paint(order)
    (both,) = paint(order, out=tmp_path / "both.png", loras=((a, 0.7), (b, -0.4)))
    (swapped,) = paint(order, out=tmp_path / "swapped.png", loras=((b, -0.4), (a, 0.7)))
    (only,) = paint(order, out=tmp_path / "only.png", loras=((a, 0.7),))
    (nothing,) = paint(order, out=tmp_path / "nothing.png", loras=((a, 0.0), (b, 0.0)))
    assert apart(bare, both) > 3
    assert apart(only, both) > 3
    assert apart(both, swapped) <= 1
    assert apart(bare, nothing) == 0
    assert like(both).read_bytes() == both.read_bytes()
    facts = read_record(both)[1]
    assert [(Path(entry["file"]).name, entry["weight"]) for entry in facts["loras"]] == [  # type: ignore[attr-defined]
        ("1.safetensors", 0.7),
        ("2.safetensors", -0.4),
    ]


def test_changing_a_picture(order: Order, tmp_path: Path) -> None:
    """A low strength stays near the input; `--like` repeats it as long as the input is the same."""
    (source,) = paint(order, out=tmp_path / "source.png", seed=77)
    changed = {
        strength: paint(
            order, out=tmp_path / f"{strength}.png", image=source, strength=strength, size=None, steps=10
        )[0]
        for strength in (0.1, 1.0)
    }
    assert Image.open(changed[0.1]).size == (48, 32)  # the input's
    start = _through_the_autoencoder(order, source)
    assert np.abs(levels(changed[0.1]) - start).mean() < np.abs(levels(changed[1.0]) - start).mean()
    assert like(changed[0.1]).read_bytes() == changed[0.1].read_bytes()
    (from_noise,) = paint(order, out=tmp_path / "noise.png", steps=10)
    assert apart(changed[1.0], from_noise) == 0  # at t = 1 nothing of the input is left
    paint(order, out=source, seed=78)
    with pytest.raises(ModelError, match=r"was made from .*source\.png when its hash was"):
        like(changed[0.1])


@torch.no_grad()
def _through_the_autoencoder(order: Order, path: Path) -> Any:
    from velatura.sampling.painter import as_tensor, to_images

    family, parts = load(Path(str(order.model)))
    latents = family.encode_image(parts, as_tensor(Image.open(path)))
    return np.asarray(to_images(family, parts, latents)[0]).astype(int)


def test_a_picture_of_a_size_that_no_model_paints_is_named(order: Order, tmp_path: Path) -> None:
    Image.new("RGB", (65, 47)).save(odd := tmp_path / "odd.png")
    with pytest.raises(
        RecipeError, match="65x47, and both edges must be multiples of 16 .* to 64x32$"
    ) as told:
        paint(order, image=odd, size=None)
    assert f"--image {odd} is" in str(told.value)


def test_what_is_told_wins_over_what_the_picture_says(order: Order, tmp_path: Path) -> None:
    (first,) = paint(order)
    changed = like(first, seed=6)
    (expected,) = paint(order, out=tmp_path / "six.png", seed=6)
    assert changed.read_bytes() == expected.read_bytes()


def test_progress_is_told(order: Order) -> None:
    log = Log()
    list(generate(replace(order, steps=3, count=2), log.events))
    assert [event.done for event in log.of(PhaseProgress)] == [1, 2, 3] * 2
    assert all(event.seconds > 0 for event in log.of(PhaseFinished))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"size": (50, 32)}, RecipeError, "width must be a multiple of 16, received 50; nearest: 48 or 64"),
        ({"out": Path("x.jpg")}, RecipeError, "--out must end in .png, received x.jpg"),
        ({"steps": 0}, RecipeError, "steps must be 1 to 1000, received 0"),
        (
            {"guidance": 3.5},
            RecipeError,
            "guidance = 3.5 was received, and this model .* has no distilled guidance",
        ),
        ({"image": Path("none.png")}, RecipeError, "--image none.png cannot be read: there is no such file"),
        ({"size": (8192, 4096)}, RecipeError, "at most 16,777,216 pixels, received 8192 x 4096"),
        (
            {"count": 10**30},
            RecipeError,
            "count x batch must be at most 10,000, received 1000000000000000000000",
        ),
        ({"batch": 65}, RecipeError, "batch must be 1 to 64, received 65"),
        ({"seed": 2**63}, RecipeError, "seed must be 0 to 2\\^63 - 1, received 9223372036854775808"),
        ({"seed": -1}, RecipeError, "seed must be 0 to"),
        ({"steps": 10**20}, RecipeError, "steps must be 1 to 1000, received 100000000000000000000"),
        ({"cfg": float("nan")}, RecipeError, "cfg must be 0 or more, received nan"),
        ({"strength": float("nan")}, RecipeError, "strength must be above 0"),
        ({"prompt": "caf\udce9"}, RecipeError, "the prompt has a byte that is not UTF-8 at character 4"),
        ({"negative": "a\0b"}, RecipeError, "the negative prompt has a NUL at character 2"),
        ({"loras": ((Path("a.safetensors"), float("inf")),)}, CheckpointError, "a.safetensors"),
        ({"weights": "fp4"}, RecipeError, "received weights 'fp4'; allowed: full, fp8, int8"),
        (
            {"autoencoder": "cut"},
            RecipeError,
            "received autoencoder 'cut'; allowed: auto, whole, sliced, tiled",
        ),
        ({"model": "no-such-model"}, ModelError, "no such file or folder"),
        ({"loras": ((Path("none.safetensors"), 1.0),)}, CheckpointError, "none.safetensors"),
        ({"device": "cuda:77"}, RecipeError, "device 'cuda:77' cannot be used here"),
        ({"device": "meta"}, RecipeError, "device 'meta' cannot be used here"),
        ({"like": Path("none.png")}, RecipeError, "no such file: none.png"),
    ],
)
def test_orders_that_are_refused(
    order: Order, changes: dict[str, Any], kind: type[VelaturaError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        paint(order, **changes)
    assert caught.value.exit_code == 2
    assert not order.out.exists()


@pytest.mark.parametrize(
    ("out", "kind", "message"),
    [
        (".", RecipeError, "--out .* is a folder; give a file in it: .*picture.png"),
        ("x", RecipeError, "--out must end in .png"),
        ("file/x.png", StorageError, "cannot write .*x.png: .*file is a file; give another --out"),
        (f"{'x' * 252}.png", StorageError, "cannot write .*: File name too long; give another --out"),
    ],
)
def test_where_pictures_cannot_go_is_told_before_anything_is_loaded(
    order: Order, tmp_path: Path, out: str, kind: type[VelaturaError], message: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dir.png").mkdir()
    place = tmp_path / ("dir.png" if out == "." else out)
    with pytest.raises(kind, match=message):
        paint(order, out=place, model="no-such-model")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder here that takes no files")
@pytest.mark.parametrize("out", ["/proc/x.png", "/proc/new/x.png"])
def test_a_folder_that_takes_no_files_is_told_before_anything_is_loaded(order: Order, out: str) -> None:
    """Whoever may do everything may not do this."""
    with pytest.raises(StorageError, match=f"cannot write {out}: /proc .*; give another --out"):
        paint(order, out=Path(out), model="no-such-model")


def test_pictures_that_are_replaced_are_told_of(order: Order) -> None:
    paint(order)
    log = Log()
    list(generate(replace(order, seed=6), log.events))
    assert f"1 picture is there already and will be replaced: {order.out}" in log.texts


def test_the_picture_that_is_changed_is_never_replaced(order: Order, tmp_path: Path) -> None:
    (source,) = paint(order)
    changed = replace(order, out=tmp_path / "y.png", image=source, strength=0.5)
    with pytest.raises(RecipeError, match="--out would replace .*x.png, the picture that is changed"):
        paint(changed, out=source)
    paint(changed)
    with pytest.raises(RecipeError, match="--out would replace .*x.png, the picture that is changed"):
        paint(Order(out=source, like=changed.out, device="cpu"))  # which names it


def test_of_an_animation_the_first_frame_is_taken_and_told(order: Order, tmp_path: Path) -> None:
    red, blue = (Image.new("RGB", (48, 32), name) for name in ("red", "blue"))
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    log = Log()
    list(generate(replace(order, image=tmp_path / "a.gif", strength=0.5), log.events))
    assert f"{tmp_path / 'a.gif'} is an animation; its first frame is taken" in log.texts


def test_an_empty_prompt_and_one_of_several_lines_are_painted(order: Order) -> None:
    for prompt in ("", "a red cube\n\nat night\n"):
        (path,) = paint(order, prompt=prompt)
        assert read_record(path)[0].prompt == prompt
        assert like(path).read_bytes() == path.read_bytes()


def test_every_changed_part_is_named(order: Order, tiny_model: Path, tmp_path: Path) -> None:
    """Not only another denoiser: whatever decides about the pixels."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (picture,) = paint(order, model=str(model))
    other = write_flux(tmp_path / "other", seed=1)
    for folder, name in (
        ("transformer", "denoiser"), ("vae", "autoencoder"), ("text_encoder_2", "text encoders"),
        ("tokenizer", "tokenizers"), ("scheduler", "settings"),
    ):  # fmt: skip
        (model / folder).rename(tmp_path / "kept")
        shutil.copytree(other / folder, model / folder)
        if folder in ("tokenizer", "scheduler"):
            changed = next((model / folder).glob("*_config.json"))
            changed.write_text(json.dumps({**json.loads(changed.read_text()), "changed": 1}))
        with pytest.raises(
            ModelError, match=f"another model than .*model: the {name} .*had the hash \\w+ and now"
        ):
            like(picture)
        shutil.rmtree(model / folder)
        (tmp_path / "kept").rename(model / folder)
    assert like(picture).read_bytes() == picture.read_bytes()


def test_the_way_of_the_autoencoder_is_repeated_and_told(order: Order, tmp_path: Path) -> None:
    log = Log()
    (picture,) = generate(replace(order, autoencoder="tiled"), log.events)
    assert read_record(picture.path)[1]["autoencoder"] == "tiled"
    again = Order(out=tmp_path / "again.png", like=picture.path, device="cpu")
    (same,) = generate(again, log.events)
    assert read_record(same.path)[1]["autoencoder"] == "tiled"
    assert "may not be repeated" not in log.texts
    list(generate(replace(again, autoencoder="sliced"), log.events))
    assert "may not be repeated exactly: the autoencoder was tiled and is sliced now" in log.texts


@pytest.mark.parametrize("weights", ["fp8", "int8", "nf4"])
def test_weights_in_few_bits_are_repeated_and_are_not_the_full_ones(
    order: Order, tmp_path: Path, weights: Weights
) -> None:
    log = Log()
    (small,) = generate(replace(order, weights=weights), log.events)
    assert f"linear layers are held in {weights}" in log.texts
    (full,) = paint(order, out=tmp_path / "full.png")
    assert apart(small.path, full) > 0
    assert read_record(small.path)[1]["weights"] == weights
    assert like(small.path).read_bytes() == small.path.read_bytes()


def test_what_may_differ_in_the_last_bits_is_told(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    (picture,) = paint(order)
    monkeypatch.setattr("velatura.__version__", "99")
    log = Log()
    wanted = Order(out=picture.with_name("y.png"), like=picture, device="cpu", weights="fp8")
    list(generate(wanted, log.events))
    assert f"{picture} may not be repeated exactly: velatura was 0.1.0 and is 99 now" in log.texts
    assert (
        "may not be repeated exactly: the precision of the denoiser's weights was full and is fp8 now"
        in log.texts
    )


def test_the_attention_that_is_used_is_recorded(
    order: Order, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as elsewhere:  # a machine that has it; what it computes is SDPA's here
        elsewhere.setattr(attending, "why_not", lambda name, **given: None)
        elsewhere.setattr(attention, "_attend", lambda name, *given: sdpa("sdpa", *given))
        (there,) = paint(order, attention="flash")
    assert read_record(there)[1]["attention"] == "flash"
    log = Log()
    (here,) = generate(Order(out=tmp_path / "here.png", like=there, device="cpu"), log.events)
    assert 'attention "flash" cannot be had' in log.texts
    assert "may not be repeated exactly: the attention was flash and is sdpa now" in log.texts
    assert read_record(here.path)[1]["attention"] == "sdpa"


def test_where_text_encoders_run_is_repeated(order: Order) -> None:
    (picture,) = paint(order, text_encoders="cpu")
    assert read_record(picture)[1]["text_encoders"] == "cpu"
    again = like(picture)
    assert read_record(again)[1]["text_encoders"] == "cpu"
    assert again.read_bytes() == picture.read_bytes()
    assert read_record(like(picture, text_encoders="auto"))[1]["text_encoders"] == "auto"


def test_text_encoders_elsewhere_are_told_where_they_round_otherwise(order: Order) -> None:
    (picture,) = paint(order, text_encoders="cpu")
    past = history_in(read_record(picture)[1], picture, 1)
    here = replace(past, text_encoders="auto")
    assert differences(past, here) == []  # on the CPU it is the same
    on_gpu = replace(past, device="cuda"), replace(here, device="cuda")
    assert differences(*on_gpu) == ["the text encoders' place was cpu and is auto now"]


@pytest.mark.slow
def test_compiled_blocks_paint_the_same(order: Order, tmp_path: Path) -> None:
    """In the last bits they round otherwise; so it is remembered."""
    plain = paint(order, batch=2)
    compiled = paint(order, batch=2, compiled=True, out=tmp_path / "c.png")
    assert max(apart(a, b) for a, b in zip(plain, compiled, strict=True)) <= 1  # of 255
    streamed = paint(order, batch=2, compiled=True, streamed=0.5, out=tmp_path / "s.png")
    assert [one.read_bytes() for one in streamed] == [one.read_bytes() for one in compiled]
    assert read_record(compiled[1])[1]["compiled"] is True
    assert like(compiled[1]).read_bytes() == compiled[1].read_bytes()


def test_where_the_compiler_fails_pictures_are_painted_without_it(
    order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(run: Any, **options: Any) -> Any:
        raise OSError("no room")

    (plain,) = paint(order)
    monkeypatch.setattr(torch, "compile", fails)
    log = Log()
    (found,) = generate(replace(order, compiled=True, out=tmp_path / "y.png"), log.events)
    assert apart(plain, found.path) == 0
    assert "the compiler failed, and the run goes on without it, slower: no room" in log.texts


def test_one_picture_of_a_batch_at_a_time(order: Order, tmp_path: Path) -> None:
    together = paint(order, batch=2)
    split = paint(order, batch=2, split_attention=True, out=tmp_path / "s.png")
    assert max(apart(a, b) for a, b in zip(together, split, strict=True)) <= 1  # of 255, by rounding
    assert like(split[1]).read_bytes() == split[1].read_bytes()


def test_what_was_painted_before_an_interrupt_is_kept_and_nothing_else(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the second of three pictures is written."""
    save, saved = Image.Image.save, []

    def interrupted(image: Image.Image, path: Path, **options: Any) -> None:
        save(image, path, **options)
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        paint(order, count=3)
    assert [path.name for path in order.out.parent.iterdir()] == ["x-000.png"]


def test_a_picture_of_another_size_is_refused(order: Order, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "in.png")
    with pytest.raises(RecipeError, match="the input image is 64x64 and the picture 48x32"):
        paint(order, image=tmp_path / "in.png")


def test_like_refuses_what_cannot_be_repeated(order: Order, tiny_model: Path, tmp_path: Path) -> None:
    (picture,) = paint(order)
    with pytest.raises(RecipeError, match="--count and --batch do not go with it"):
        like(picture, count=2)
    other = write_flux(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match="was painted by another model than .*other: the .*had the hash"):
        like(picture, model=str(other))
    preview = tmp_path / "preview.png"
    save_png(Image.new("RGB", (16, 16)), preview, Request(prompt="a"), {"step": "3"})
    with pytest.raises(RecipeError, match="is it a preview of a training"):
        like(preview)


def test_a_lora_that_does_not_fit_leaves_the_pipeline_as_it_was(tiny_model: Path, tmp_path: Path) -> None:
    wide = write_flux(
        tmp_path / "wide",
        transformer={"num_attention_heads": 2},
    )
    good, bad = lora(tiny_model, tmp_path / "a.safetensors", 1), lora(wide, tmp_path / "b.safetensors", 1)
    pipeline = Pipeline.load(str(tiny_model), device="cpu", precision="fp32")
    options = {"width": 32, "height": 32, "steps": 2}
    bare = pipeline("a red cube", **options)[0].tobytes()
    pipeline.add_lora(good)
    before = pipeline("a red cube", **options)[0].tobytes()
    with pytest.raises(CheckpointError, match=f"maps {2 * WIDTH} -> {2 * WIDTH} features, the model's layer"):
        pipeline.add_lora(bad)
    assert pipeline("a red cube", **options)[0].tobytes() == before != bare
    pipeline.remove_loras()
    assert pipeline("a red cube", **options)[0].tobytes() == bare


def test_what_has_no_effect_is_told_once(order: Order) -> None:
    """Not again for every picture of a series."""
    log = Log()
    long = "a red cube " + "at night " * 30
    list(generate(replace(order, prompt=long, negative="ugly", cfg=1.0, count=2), log.events))
    lines = log.texts.splitlines()
    assert [line[:32] for line in lines] == [
        "too long for CLIP, which reads 2",
        "too long for T5, which reads 28 ",
        "the negative prompt has no effec",
    ]
    assert {notice.level for notice in log.of(Notice)} == {"warning"}
