"""What combines with what: one table of features, and of the pairs that do not go together, each with its reason.

Recipes are refused by it, a plan offers nothing that it forbids, and docs/reference/combinations.md is made from it. A
new feature is a new row of `FEATURES`; what it does not go with, and why, are new rows of `REFUSED`. What is not a
matter of two features (a value that another one must not exceed, a key that needs another) is in `consistency`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from velatura.recipe.features import Feature, Refusal
from velatura.recipe.problems import Problem
from velatura.recipe.schema import listing
from velatura.recipe.training.ema import DECAY
from velatura.recipe.training.optimizer import BUILT_IN

if TYPE_CHECKING:
    from velatura.recipe.recipe import Recipe

OFFLOADED = ("adamw", "adamw8bit", "muon")  # kinds whose averages are as many as the weights
ROUNDED = ("adamw", "adamw8bit", "adafactor")  # kinds that can train weights in bf16


def _is(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _not(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value not in values


def _above(limit: float) -> Callable[[Any], bool]:
    return lambda value: bool(value > limit)


ADAPTER = Feature(name="[adapter]", key="adapter")
FULL = Feature(name="[full]", key="full")
AUTOENCODER = Feature(
    name='objective "autoencoder"',
    key="objective.kind",
    of=_is("autoencoder"),
    beside="full",
    example='full.parts=["autoencoder"]',
)
NARROW = Feature(
    name="full.weights bf16",
    key="full.weights",
    of=_is("bf16"),
    beside="full",
    example="full.weights=bf16",
)
QUANTISED = Feature(
    name="memory.weights fp8, int8, nf4",
    key="memory.weights",
    of=_not("full"),
    example="memory.weights=fp8",
    others=("memory.weights=int8", "memory.weights=nf4"),
)
PIECES = Feature(
    name="memory.autoencoder sliced, tiled",
    key="memory.autoencoder",
    of=_is("sliced", "tiled"),
    example="memory.autoencoder=tiled",
    others=("memory.autoencoder=sliced",),
)
ENCODED_ON_CPU = Feature(
    name="memory.text_encoders cpu",
    key="memory.text_encoders",
    of=_is("cpu"),
    example="memory.text_encoders=cpu",
)
ENCODERS_TRAINED = Feature(
    name="full.parts text_encoders",
    key="full.parts",
    of=lambda parts: "text_encoders" in parts,
    beside="full",
    example='full.parts=["text_encoders"]',
)
STREAMED = Feature(name="memory.streamed", key="memory.streamed", example="memory.streamed=0.5")
STREAMED_IN_TRAINING = Feature(
    name="memory.streamed with [full]", key="memory.streamed", beside="full", example="memory.streamed=0.5"
)
OFFLOADED_ACTIVATIONS = Feature(
    name="memory.offload_activations",
    key="memory.offload_activations",
    example="memory.offload_activations=true",
)
UNCACHED = Feature(name="memory.cache false", key="memory.cache", of=_is(False), example="memory.cache=false")
SPLIT = Feature(
    name="memory.split_attention", key="memory.split_attention", example="memory.split_attention=true"
)
ATTENDED = Feature(
    name="training.attention other than sdpa",
    key="training.attention",
    of=_not("sdpa"),
    example="training.attention=flash",
)
RECOMPUTED = Feature(
    name="training.checkpoint_blocks",
    key="training.checkpoint_blocks",
    example="training.checkpoint_blocks=true",
    others=("training.checkpoint_blocks=2", "training.checkpoint_blocks=mlp"),
)
COMPILED = Feature(
    name="training.compile true", key="training.compile", of=_is(True), example="training.compile=true"
)
ACCUMULATED = Feature(
    name="training.accumulate", key="training.accumulate", of=_above(1), example="training.accumulate=2"
)
IN_PASSES = Feature(
    name="memory.micro_batch", key="memory.micro_batch", of=_above(0), example="memory.micro_batch=1"
)
FP16 = Feature(
    name="training.precision fp16",
    key="training.precision",
    of=_is("fp16"),
    example="training.precision=fp16",
)
NOT_BF16 = Feature(
    name="training.precision other than bf16",
    key="training.precision",
    of=_not("bf16"),
    example="training.precision=fp32",
)
RETRIED = Feature(
    name="training.retry_on_oom", key="training.retry_on_oom", example="training.retry_on_oom=true"
)
SEVERAL = Feature(
    name="training.batch_size", key="training.batch_size", of=_not(1), example="training.batch_size=2"
)
BY_TOKENS = Feature(
    name="training.batch_tokens", key="training.batch_tokens", example="training.batch_tokens=64"
)
FUSED = Feature(
    name="optimizer.fused_backward", key="optimizer.fused_backward", example="optimizer.fused_backward=true"
)
OFFLOADED_STATE = Feature(name="optimizer.offload", key="optimizer.offload", example="optimizer.offload=true")
CLIPPED = Feature(name="optimizer.clip", key="optimizer.clip", of=_above(0), example="optimizer.clip=1.0")
FOREIGN = Feature(
    name="optimizer by import path",
    key="optimizer.kind",
    of=_not(*BUILT_IN),
    example="optimizer.kind=torch.optim.Adam",
)
UNROUNDED = Feature(
    name="optimizer without rounding",
    key="optimizer.kind",
    of=_not(*ROUNDED),
    example="optimizer.kind=muon",
)
STATELESS = Feature(
    name="optimizer adafactor", key="optimizer.kind", of=_is("adafactor"), example="optimizer.kind=adafactor"
)
AVERAGED = Feature(name="ema.strength", key="ema.strength", example="ema.strength=0.1")
AVERAGED_BY_DECAY = Feature(name="ema.decay", key="ema.decay", of=_not(DECAY), example="ema.decay=0.9")
AVERAGED_AWAY = Feature(name="ema.device cpu", key="ema.device", of=_is("cpu"), example="ema.device=cpu")
PAINTED = Feature(name="previews", key="previews.prompts", example='previews.prompts=["a"]')
SHARE = Feature(name="validation.share", key="validation.share", example="validation.share=0.5")
FOLDER = Feature(name="validation.folder", key="validation.folder", example="validation.folder=photos")

FEATURES = (
    ADAPTER, FULL, ENCODERS_TRAINED, AUTOENCODER, NARROW, QUANTISED, ENCODED_ON_CPU, PIECES, STREAMED,
    STREAMED_IN_TRAINING, UNCACHED, SPLIT, ATTENDED, OFFLOADED_ACTIVATIONS, RECOMPUTED, COMPILED, ACCUMULATED,
    IN_PASSES, FP16, NOT_BF16, RETRIED, SEVERAL, BY_TOKENS, FUSED, OFFLOADED_STATE, CLIPPED, FOREIGN, UNROUNDED,
    STATELESS, AVERAGED, AVERAGED_BY_DECAY, AVERAGED_AWAY, PAINTED, SHARE, FOLDER,
)  # fmt: skip
_NO_DENOISER = "no denoiser is run"
REFUSED = (
    Refusal(first=QUANTISED, second=FULL, reason="such weights are frozen; allowed with [adapter]"),
    Refusal(
        first=PIECES,
        second=AUTOENCODER,
        reason="an autoencoder that is trained is run whole",
        hint="crop in [objective] keeps images small",
    ),
    Refusal(
        first=ENCODED_ON_CPU, second=ENCODERS_TRAINED, reason="they are trained where the rest is computed"
    ),
    Refusal(first=ENCODED_ON_CPU, second=AUTOENCODER, reason="no caption is read"),
    Refusal(first=RECOMPUTED, second=AUTOENCODER, reason=_NO_DENOISER),
    Refusal(first=STREAMED, second=AUTOENCODER, reason=_NO_DENOISER),
    Refusal(
        first=STREAMED_IN_TRAINING,
        second=FOREIGN,
        reason=f"its updates may want all weights at once; allowed with {listing(BUILT_IN)}",
    ),
    Refusal(first=SPLIT, second=AUTOENCODER, reason=_NO_DENOISER),
    Refusal(first=ATTENDED, second=AUTOENCODER, reason=_NO_DENOISER),
    Refusal(first=OFFLOADED_ACTIVATIONS, second=AUTOENCODER, reason=_NO_DENOISER),
    Refusal(
        first=PAINTED,
        second=AUTOENCODER,
        reason="an autoencoder that is trained by itself paints from none",
        hint="leave the section out",
    ),
    Refusal(
        first=NARROW,
        second=UNROUNDED,
        reason=f"it does not round updates so that small ones are not lost; allowed with {listing(ROUNDED)}",
    ),
    Refusal(
        first=NARROW,
        second=AUTOENCODER,
        reason="it is computed in more",
        hint="leave it out: an autoencoder is small",
    ),
    Refusal(
        first=NARROW, second=NOT_BF16, reason='allowed with "bf16"', hint='write training.precision = "bf16"'
    ),
    Refusal(first=FUSED, second=ADAPTER, reason="the gradients of an adapter are small; allowed with [full]"),
    Refusal(
        first=FUSED,
        second=FOREIGN,
        reason=f"its updates may depend on all gradients; allowed with {listing(BUILT_IN)}",
    ),
    Refusal(
        first=FUSED,
        second=CLIPPED,
        reason="the norm of all gradients is known only after all updates; allowed with clip = 0",
    ),
    Refusal(first=FUSED, second=ACCUMULATED, reason="gradients are added up over passes; allowed with 1"),
    Refusal(
        first=FUSED,
        second=IN_PASSES,
        reason="gradients are added up over passes",
        hint="leave micro_batch out",
    ),
    Refusal(
        first=FUSED,
        second=FP16,
        reason='its loss scaling looks at all gradients before an update; allowed with "bf16" and "fp32"',
    ),
    Refusal(first=FUSED, second=RETRIED, reason="a step that is half made cannot be made again"),
    Refusal(
        first=OFFLOADED_STATE,
        second=ADAPTER,
        reason="the averages of an adapter are small; allowed with [full]",
    ),
    Refusal(
        first=OFFLOADED_STATE,
        second=FOREIGN,
        reason=f"its updates may want the averages of all weights at once; allowed with {listing(OFFLOADED)}",
    ),
    Refusal(
        first=OFFLOADED_STATE,
        second=STATELESS,
        reason=f"it remembers almost nothing of a weight; allowed with {listing(OFFLOADED)}",
    ),
    Refusal(first=BY_TOKENS, second=SEVERAL, reason="one of them says how large a batch is"),
    Refusal(first=AVERAGED, second=AVERAGED_BY_DECAY, reason="one of them says how long the average reaches"),
    Refusal(
        first=SHARE,
        second=FOLDER,
        reason="validation images are a share of the training images, or in a folder of their own",
    ),
)


def refused_pairs(recipe: Recipe) -> Iterator[Problem]:
    """What a recipe asks for that does not go together, all reasons against a feature in one."""
    found: dict[str, list[Refusal]] = {}
    for refusal in REFUSED:
        if refusal.first.used(recipe) and refusal.second.used(recipe):
            found.setdefault(refusal.first.key, []).append(refusal)
    for key, refusals in found.items():
        yield _problem(recipe, key, refusals)


def _problem(recipe: Recipe, key: str, refusals: list[Refusal]) -> Problem:
    section, name = key.split(".")
    reasons = "; and ".join(f"with {one.second.said(recipe, section)}: {one.reason}" for one in refusals)
    hint = next((one.hint for one in refusals if one.hint), "")
    return Problem(
        path=(section, name), what=f"received {refusals[0].first.shown(recipe)} {reasons}", hint=hint
    )
