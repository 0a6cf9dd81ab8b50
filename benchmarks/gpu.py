"""Training steps of FLUX.1 at its true size, with random weights: seconds, share of the matmul peak, memory.

    python benchmarks/gpu.py [--arms NAME,…] [--steps 10] [--peak 989] [--toy] [--no-compile] [--json FILE]

Each arm runs in a process of its own, through the trainer's own parts. Latents and text are random, as if cached; text
has 512 tokens. MFU counts the arithmetic that a step needs without recomputing (docs/guides/planning.md); the peak is
that of bf16 products in TFLOP/s.

"512-full" trains all weights as `[full]` does by default, in float32 under autocast. With AdamW's averages they take
some 180 GiB, more than an H200 has, so this arm has `optimizer.kind = "adamw8bit"`: about 115 GiB by velatura's own
plan. "512-full-bf16-weights" has `full.weights = "bf16"` and adamw, the default kind: about 138 GiB.

--toy takes a tiny FLUX and a sixteenth of the pixels, on the CPU as well, to see that every arm runs: its figures say
nothing of the true size. An arm that fails has a row with its error, and the script ends with exit code 1.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import arguments
import torch
from step_shape import info

if TYPE_CHECKING:
    from velatura.interfaces import Conditioning
    from velatura.recipe.recipe import Recipe

TEXT, RANK, WARM = 512, 16, 3
TOY = {
    "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2,
    "joint_attention_dim": 64, "pooled_projection_dim": 64, "axes_dims_rope": (8, 12, 12),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train."""

    size: int  # pixels, edge of a square
    batch: int = 1
    weights: str = "full"
    streamed: float = 0.0
    recompute: bool | str | int = False
    compiled: bool = True
    full: Literal["fp32", "bf16"] | None = None  # type of the denoiser's weights, all trained; None: a LoRA
    optimizer: str = "adamw"


ARMS = {
    "512": Arm(size=512),
    "512x4": Arm(size=512, batch=4),
    "1024": Arm(size=1024),
    "1024-eager": Arm(size=1024, compiled=False),
    "1024x4": Arm(size=1024, batch=4, recompute=True),
    "1024-recomputed": Arm(size=1024, recompute=True),
    "1024-streamed-half": Arm(size=1024, streamed=0.5),
    "1024-streamed": Arm(size=1024, streamed=1.0),
    "1024-fp8": Arm(size=1024, weights="fp8"),
    "1024-fp8-streamed": Arm(size=1024, weights="fp8", streamed=1.0),
    "1024-int8": Arm(size=1024, weights="int8"),
    "512-full": Arm(size=512, full="fp32", recompute=True, optimizer="adamw8bit"),
    "512-full-bf16-weights": Arm(size=512, full="bf16", recompute=True),
}
RECIPE = """
name = "gpu"
model = {{ model = "pocket/flux" }}
data = [{{ folder = "." }}]
{trained}
optimizer = {{ kind = "{kind}", learning_rate = 1e-5 }}
training = {{ precision = "{precision}" }}
"""
PRECISIONS = {torch.bfloat16: "bf16", torch.float32: "fp32"}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What an arm came to."""

    seconds: float  # median of a step
    first: float  # of the first step, which compiles
    memory: float  # GiB, the allocator's peak on the device; 0 on the CPU
    mfu: float


Found = TypeVar("Found")


def step_flops(config: dict[str, Any], tokens: int, batch: int, *, full: bool) -> float:
    """Forward, and backward to the inputs; to the weights too where all are trained. No recomputing."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    depth = config["num_layers"] + config["num_single_layers"]
    linear = 2 * 12 * width**2 * depth * tokens
    attention = 4 * tokens**2 * width * depth
    return batch * (linear * (3 if full else 2) + attention * 3)


def denoiser(config: dict[str, Any], dtype: torch.dtype, device: torch.device) -> Any:
    """A FLUX with small random weights: the same few millions over and over, since drawing all takes minutes."""
    from diffusers import FluxTransformer2DModel

    from velatura.families.flux_blocks import use_our_blocks

    torch.set_default_dtype(dtype)
    with torch.device("meta"):
        model = FluxTransformer2DModel(**config)
    torch.set_default_dtype(torch.float32)
    model = model.to_empty(device=device).requires_grad_(False).eval()
    torch.manual_seed(0)
    drawn = torch.randn(2**22).mul_(0.02).to(device, dtype)
    for parameter in model.parameters():
        for piece in parameter.view(-1).split(drawn.numel()):
            piece.copy_(drawn[: piece.numel()])
    use_our_blocks(model)
    return model


def conditioning(config: dict[str, Any], batch: int) -> Conditioning:
    """Of random texts: text `[B, 512, joint]`, pooled `[B, pooled]`."""
    from velatura.interfaces import Conditioning

    text = torch.randn(batch, TEXT, config["joint_attention_dim"])
    return Conditioning(tensors={"text": text, "pooled": torch.randn(batch, config["pooled_projection_dim"])})


def recipe_of(arm: Arm, dtype: torch.dtype) -> Recipe:
    """What is trained, and how, as `velatura train` is told; its model and data are not read."""
    from velatura.recipe.toml import parse_recipe

    trained = f'full = {{ weights = "{arm.full}" }}' if arm.full else f"adapter = {{ rank = {RANK} }}"
    return parse_recipe(RECIPE.format(trained=trained, kind=arm.optimizer, precision=PRECISIONS[dtype]))


def trainer(
    arm: Arm, config: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> Callable[[], object]:
    """A step of velatura's own trainer, which returns when the device has finished."""
    from velatura.families.flux import FluxFamily
    from velatura.interfaces import Batch, Parts, Prompt
    from velatura.objectives.flow import Flow
    from velatura.placement.compiling import compile_blocks, compiled_update
    from velatura.placement.place import place
    from velatura.placement.precision.quantised import quantise_blocks
    from velatura.recipe.objectives.flow import FlowObjective
    from velatura.training.optimizer import make_optimizer
    from velatura.training.step import Stepper
    from velatura.training.trainables import make_trainables

    recipe, family = recipe_of(arm, dtype), FluxFamily()
    model = denoiser(config, dtype, torch.device("cpu") if arm.streamed else device)
    if arm.weights != "full":
        quantise_blocks(family.blocks(model), arm.weights)  # type: ignore[arg-type]
    parts = Parts(info=info(), denoiser=model)
    trainables = make_trainables(recipe, family, parts)
    if arm.compiled:
        compile_blocks(family.blocks(model), sizes=1)
    place(
        model,
        family.blocks(model),
        family.ahead(model),
        share=arm.streamed,
        device=device,
        policy=arm.recompute,  # type: ignore[arg-type]
        feed_forwards=family.feed_forwards(model),
    )
    stepper = Stepper(
        family=family,
        parts=parts,
        objective=Flow(FlowObjective(), guidance=1.0),
        optimizer=make_optimizer(
            recipe.optimizer,
            trainables.parameters,
            seed=recipe.seed,
            compiled=compiled_update if arm.compiled else None,
        ),
        parameters=list(trainables.parameters.values()),
        clip=recipe.optimizer.clip,
        device=device,
        dtype=dtype,
        autocast=trainables.autocast,
    )
    edge = arm.size // 8
    batch = Batch(
        names=tuple(str(slot) for slot in range(arm.batch)),
        prompts=(Prompt(text=""),) * arm.batch,
        weights=torch.ones(arm.batch),
        slots=tuple(range(arm.batch)),
        latents=torch.randn(arm.batch, 16, edge, edge),
        conditioning=conditioning(config, arm.batch),
    )
    count = itertools.count()
    return lambda: finished(device, stepper([batch], 0, next(count)))


def finished(device: torch.device, done: Any) -> Any:
    """What was enqueued, once the device has computed it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return done


def measure(arm: Arm, config: dict[str, Any], steps: int, peak: float) -> Figures:
    """Train the arm for some steps."""
    from velatura.placement.device import choose_device, choose_dtype, forget_peak, memory_used

    device = choose_device("auto")
    dtype = choose_dtype("bf16" if arm.full == "bf16" else "auto", device)  # a recipe wants both alike
    step = trainer(arm, config, device, dtype)
    forget_peak(device)  # of building
    seconds = []
    for _ in range(WARM + steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    tokens = (arm.size // 16) ** 2 + TEXT
    median = statistics.median(seconds[WARM:])
    return Figures(
        seconds=median,
        first=seconds[0],
        memory=memory_used(device) / 2**30 if device.type == "cuda" else 0.0,
        mfu=step_flops(config, tokens, arm.batch, full=arm.full is not None) / median / peak,
    )


def apart(work: Callable[..., Found], *given: object) -> Found:
    """What `work` returns, in a process of its own. Raises as it does, and BrokenProcessPool where that is killed."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def row_of(name: str, arm: Arm, config: dict[str, Any], steps: int, peak: float) -> dict[str, Any]:
    """An arm with its figures, or with its error; told as a line of the table."""
    from velatura.errors import reason

    try:
        found = apart(measure, arm, config, steps, peak)
    except Exception as error:  # the other arms are still measured
        print(f"{name:22}  {reason(error).splitlines()[0][:80]}", flush=True)
        return {"name": name, **asdict(arm), "error": reason(error)}
    print(f"{name:22}{found.seconds:9.3f}{found.first:9.1f}{found.mfu:8.1%}{found.memory:9.2f}", flush=True)
    return {"name": name, **asdict(arm), **asdict(found)}


def main() -> None:
    """Run the arms one after the other and print a table."""
    parser = arguments.parser(__doc__)
    parser.add_argument(
        "--arms", type=arguments.names(ARMS), default=list(ARMS), help=f"of {', '.join(ARMS)}"
    )
    parser.add_argument("--steps", type=arguments.count, default=10)
    parser.add_argument("--peak", type=arguments.positive, default=989.0, help="TFLOP/s of the device")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--no-compile", action="store_true", help="run all arms eagerly")
    options = parser.parse_args()
    from velatura.checkpoints.published import load_config
    from velatura.placement.device import choose_device

    device = choose_device("auto")
    if device.type == "cpu" and not options.toy:
        parser.error(
            "without a GPU this script is for --toy alone: FLUX.1 at its true size takes one of 140 GB"
        )
    config: dict[str, Any] = {**load_config("flux-dev-transformer"), "guidance_embeds": True}
    if options.toy:
        config = {**config, **TOY}
        print(f"a tiny FLUX on {device}: that the arms run, and no figures of the true size")
    rows = []
    print(f"{'':22}{'s/step':>9}{'first':>9}{'MFU':>8}{'GiB':>9}")
    for name in options.arms:
        arm = ARMS[name]
        arm = replace(
            arm,
            size=arm.size // 4 if options.toy else arm.size,
            compiled=arm.compiled and not options.no_compile,
        )
        rows.append(row_of(name, arm, config, options.steps, options.peak * 1e12))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))
    if failed := [row["name"] for row in rows if "error" in row]:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
