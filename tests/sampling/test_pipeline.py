"""What the Pipeline says of a request, and what it refuses."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from velatura.errors import NumericError, RecipeError
from velatura.events import Notice
from velatura.sampling.pipeline import Pipeline

from ..families import models
from ..tiny import Log, write_flux

SMALL = {"width": 32, "height": 32, "steps": 1}
LONG = "a red cube " + "at night " * 30


def pipeline(model: Path, log: Log | None = None, precision: str = "fp32") -> Pipeline:
    events = None if log is None else log.events
    return Pipeline.load(str(model), device="cpu", precision=precision, events=events)


def test_words_that_are_not_read_are_told_once_per_prompt(tiny_model: Path) -> None:
    log = Log()
    paints = pipeline(tiny_model, log)
    paints("a red cube", **SMALL)
    assert log.of(Notice) == []
    paints(LONG, **SMALL)
    assert [notice.level for notice in log.of(Notice)] == ["warning", "warning"]
    assert "too long for T5, which reads 28 tokens: the prompt (" in log.texts
    assert 'not read: "night at night at' in log.texts or 'not read: "at night at night' in log.texts
    paints(LONG, seed=2, **SMALL)  # it is not encoded again
    assert len(log.of(Notice)) == 2
    paints("a cone", negative=LONG, cfg=2.0, **SMALL)
    assert "the negative prompt (" in log.of(Notice)[-1].message


def test_without_listeners_they_are_python_warnings(tiny_model: Path) -> None:
    with pytest.warns(UserWarning, match="too long for T5, which reads 28 tokens: the prompt"):
        pipeline(tiny_model)(LONG, **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline(tiny_model)("a red cube", **SMALL)


def test_a_negative_prompt_without_effect_is_told(tiny_model: Path) -> None:
    log = Log()
    paints = pipeline(tiny_model, log)
    paints("a cube", negative="ugly", cfg=1.0, **SMALL)
    (told,) = log.of(Notice)
    assert (told.level, told.message[:49]) == ("warning", "the negative prompt has no effect at cfg = 1: set")
    paints("a cube", negative="ugly", cfg=2.0, **SMALL)
    assert len(log.of(Notice)) == 1


def test_guidance_is_refused_where_it_would_have_no_effect(tiny_model: Path, tmp_path: Path) -> None:
    """What is the model's default anyway may be said."""
    message = r"guidance = 3.5 was received, and this model \({}\) has no distilled guidance: it would have no effect"
    paints = pipeline(tiny_model)
    with pytest.raises(RecipeError, match=message.format("flux undistilled")):
        paints("a cube", guidance=3.5, **SMALL)
    paints("a cube", guidance=0.0, **SMALL)
    with pytest.raises(RecipeError, match=message.format("sd1 1.x")):
        pipeline(models.sd1_folder(tmp_path / "sd1"))("a cube", guidance=3.5, **SMALL)


def test_guidance_is_taken_where_it_is_read(tmp_path: Path) -> None:
    paints = pipeline(write_flux(tmp_path / "dev", transformer={"guidance_embeds": True}))
    weak, strong = (paints("a cube", guidance=value, **SMALL)[0].tobytes() for value in (1.0, 30.0))
    assert weak != strong


def test_a_model_that_gives_nan_paints_nothing(tiny_model: Path) -> None:
    paints = pipeline(tiny_model)
    assert paints("a cube", **SMALL)
    assert paints.parts.denoiser is not None
    next(paints.parts.denoiser.parameters()).data.fill_(float("nan"))
    with pytest.raises(
        NumericError, match="denoiser gave NaN or infinity in torch.float32, which makes no picture"
    ):
        paints("a cube", **SMALL)


@pytest.mark.parametrize(
    ("precision", "why"), [("fp32", "a weight of the autoencoder"), ("fp16", "fp16 overflows in many models")]
)
def test_a_decoder_that_overflows_paints_nothing(tiny_model: Path, precision: str, why: str) -> None:
    """As fp16 does in many autoencoders."""
    paints = pipeline(tiny_model, precision=precision)
    assert paints("a cube", **SMALL)
    assert paints.parts.autoencoder is not None
    paints.parts.autoencoder.decoder.conv_out.bias.data[0] = float("inf")
    message = f"the autoencoder gave NaN or infinity in torch.float.., which makes no picture. Maybe {why}"
    with pytest.raises(NumericError, match=message):
        paints("a cube", **SMALL)
