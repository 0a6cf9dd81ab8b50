"""Training steps of FLUX.1 at its true size, with random weights: seconds, share of the matmul peak, memory.

    python benchmarks/gpu.py [--arms NAME,…] [--steps 10] [--toy] [--json FILE]

Each arm runs in a process of its own, through the trainer's own parts. Latents and text are random, as if cached; text
has 512 tokens. MFU counts the arithmetic that a step needs without recomputing (docs/guides/planning.md); the peak is
989 TFLOP/s unless --peak says otherwise. --toy takes a tiny FLUX, to see that the script runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from step_shape import info

if TYPE_CHECKING:
    from velatura.interfaces import Conditioning

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
    full: bool = False  # all weights of the denoiser instead of a LoRA


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
    "512-full": Arm(size=512, full=True, recompute=True),
}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What an arm came to."""

    seconds: float  # median of a step
    first: float  # of the first step, which compiles
    memory: float  # GiB, the allocator's peak on the device; 0 on the CPU
    mfu: float


def step_flops(config: dict[str, Any], tokens: int, batch: int, *, full: bool) -> float:
    """Forward, and backward to the inputs; to the weights too where all are trained. No recomputing."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    depth = config["num_layers"] + config["num_single_layers"]
    linear = 2 * 12 * width**2 * depth * tokens
    attention = 4 * tokens**2 * width * depth
    return batch * (linear * (3 if full else 2) + attention * 3)


def denoiser(config: dict[str, Any], dtype: torch.dtype, device: torch.device) -> Any:
    """A FLUX with small random weights, drawn where they are needed."""
    from diffusers import FluxTransformer2DModel

    from velatura.families.flux_blocks import use_our_blocks

    torch.set_default_dtype(dtype)
    with torch.device("meta"):
        model = FluxTransformer2DModel(**config)
    torch.set_default_dtype(torch.float32)
    model = model.to_empty(device=device).requires_grad_(False).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(0, 0.02)
    use_our_blocks(model)
    return model


def conditioning(config: dict[str, Any], batch: int) -> Conditioning:
    """Of random texts: text `[B, 512, joint]`, pooled `[B, pooled]`."""
    from velatura.interfaces import Conditioning

    text = torch.randn(batch, TEXT, config["joint_attention_dim"])
    return Conditioning(tensors={"text": text, "pooled": torch.randn(batch, config["pooled_projection_dim"])})


def trainer(
    arm: Arm, config: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> Callable[[], object]:
    """A step of velatura's own trainer, which returns when the device has finished."""
    from velatura.adapters.attach import put_on_fresh
    from velatura.adapters.targets import choose
    from velatura.families.flux import FluxFamily
    from velatura.interfaces import Batch, Parts, Prompt
    from velatura.objectives.flow import Flow
    from velatura.placement.compiling import compile_blocks, compiled_update
    from velatura.placement.place import place
    from velatura.placement.precision.quantised import quantise_blocks
    from velatura.recipe.objectives.flow import FlowObjective
    from velatura.recipe.training.optimizer import Optimizer
    from velatura.training.optimizer import make_optimizer
    from velatura.training.step import Stepper

    family = FluxFamily()
    model = denoiser(config, dtype, torch.device("cpu") if arm.streamed else device)
    if arm.weights != "full":
        quantise_blocks(family.blocks(model), arm.weights)  # type: ignore[arg-type]
    if arm.full:
        parameters = dict(model.requires_grad_().named_parameters())
    else:
        targets = choose(family.targets(model), ["attention", "mlp"]).targets
        parameters = put_on_fresh(model, targets, rank=RANK, alpha=RANK, seed=0).parameters()
        for parameter in parameters.values():
            parameter.requires_grad_()
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
        parts=Parts(info=info(), denoiser=model),
        objective=Flow(FlowObjective(), guidance=1.0),
        optimizer=make_optimizer(
            Optimizer(learning_rate=1e-5),
            parameters,
            seed=0,
            compiled=compiled_update if arm.compiled else None,
        ),
        parameters=list(parameters.values()),
        clip=1.0,
        device=device,
        dtype=dtype,
        autocast=False,
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
    from velatura.placement.device import choose_device, choose_dtype

    device = choose_device("auto")
    step = trainer(arm, config, device, choose_dtype("auto", device))
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
        memory=torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0,
        mfu=step_flops(config, tokens, arm.batch, full=arm.full) / median / peak,
    )


def main() -> None:
    """Run the arms one after the other and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", default=",".join(ARMS), help=f"of {', '.join(ARMS)}")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of the device")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from velatura.checkpoints.published import load_config

    config: dict[str, Any] = {**load_config("flux-dev-transformer"), "guidance_embeds": True}
    if options.toy:
        config = {**config, **TOY}
    rows = []
    print(f"{'':22}{'s/step':>9}{'first':>9}{'MFU':>8}{'GiB':>9}")
    for name in options.arms.split(","):
        arm = ARMS[name]
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            try:
                found = pool.apply(measure, (arm, config, options.steps, options.peak * 1e12))
            except (RuntimeError, MemoryError) as error:
                print(f"{name:22}  {str(error).splitlines()[0][:80]}")
                continue
        rows.append({"name": name, **asdict(arm), **asdict(found)})
        print(
            f"{name:22}{found.seconds:9.3f}{found.first:9.1f}{found.mfu:8.1%}{found.memory:9.2f}", flush=True
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
