"""Time of a LoRA training step: ours beside a plain loop over diffusers and peft, same shape, interleaved.

    python benchmarks/step.py [--dtype auto|bf16|fp32] [--threads 2] [--rounds 7] [--no-compile] [--json FILE]

Shape: FLUX blocks 768 wide, 12 heads, 3 double + 6 single, 1024 image + 256 text tokens, rank 16 on attention and
MLP linears. A step is forward, backward, clipping and fused AdamW on one item; ours is what `velatura train` runs. Each
contestant has a process of its own and they take turns. Ratios below 1 mean that ours is faster.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from contest import Step, ratio, run

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

    from velatura.interfaces import Batch, ModelInfo

GRID, TEXT, RANK, RATE = (32, 32), 256, 16, 1e-4
SINGLE = 6
SHAPE = {
    "num_layers": 3,
    "num_single_layers": SINGLE,
    "attention_head_dim": 64,
    "num_attention_heads": 12,
    "joint_attention_dim": 512,
    "pooled_projection_dim": 256,
    "axes_dims_rope": (8, 28, 28),
}
PEFT_TARGETS = [
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp"),
    *(f"single_transformer_blocks.{number}.proj_out" for number in range(SINGLE)),
]
FLOPS = 0.50e12  # of a step, attention included: 6 per weight and token, less the frozen weights' gradients
PLAIN = "plain diffusers + peft"


def denoiser(dtype: torch.dtype, device: torch.device) -> FluxTransformer2DModel:
    """The same random weights for every contestant."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    return FluxTransformer2DModel(**SHAPE).to(device, dtype).requires_grad_(False)


def item() -> dict[str, torch.Tensor]:
    """Latents `[1, 16, 64, 64]`, noise, text and pooled text of the one item."""
    torch.manual_seed(1)
    latents = torch.randn(1, 16, 2 * GRID[0], 2 * GRID[1])
    return {
        "latents": latents,
        "noise": torch.randn_like(latents),
        "text": torch.randn(1, TEXT, 512),
        "pooled": torch.randn(1, 256),
    }


def ours(dtype: torch.dtype, device: torch.device, compiled: bool) -> Step:
    """A step of velatura's own trainer."""
    from velatura.adapters.attach import put_on_fresh
    from velatura.adapters.targets import choose
    from velatura.families.flux import FluxFamily
    from velatura.families.flux_blocks import use_our_blocks
    from velatura.interfaces import Parts
    from velatura.objectives.flow import Flow
    from velatura.placement.compiling import compile_blocks
    from velatura.recipe.objectives.flow import FlowObjective
    from velatura.recipe.training.optimizer import Optimizer
    from velatura.training.optimizer import make_optimizer
    from velatura.training.step import Stepper

    family, model = FluxFamily(), denoiser(dtype, device)
    parts = Parts(info=_info(), denoiser=model)
    use_our_blocks(model)
    adapter = put_on_fresh(
        model, choose(family.targets(model), ["attention", "mlp"]).targets, rank=RANK, alpha=RANK, seed=0
    )
    if compiled:
        compile_blocks(family.blocks(model), sizes=1)
    parameters = adapter.parameters()
    stepper = Stepper(
        family=family,
        parts=parts,
        objective=Flow(FlowObjective(), guidance=1.0),
        optimizer=make_optimizer(Optimizer(learning_rate=RATE), parameters),
        parameters=list(parameters.values()),
        clip=1.0,
        device=device,
        dtype=dtype,
        autocast=False,
    )
    batch, count = _batch(), iter(range(10**9))
    return lambda: stepper([batch], 0, next(count)).loss


def _info() -> ModelInfo:
    from velatura.interfaces import ModelInfo, SamplingDefaults

    return ModelInfo(
        family="flux", variant="benchmark", architecture="flux-1-schnell", latent_channels=16, latent_scale=8,
        size_step=16, prediction="velocity", shifted=True, defaults=SamplingDefaults(size=512, steps=4),
        fingerprints={},
    )  # fmt: skip


def _batch() -> Batch:
    from velatura.interfaces import Batch, Conditioning, Prompt

    data = item()
    return Batch(
        names=("one",),
        prompts=(Prompt(text=""),),
        weights=torch.ones(1),
        slots=(0,),
        latents=data["latents"],
        conditioning=Conditioning(tensors={"text": data["text"], "pooled": data["pooled"]}),
    )


def plain(dtype: torch.dtype, device: torch.device, compiled: bool) -> Step:
    """A step as the diffusers example scripts write it."""
    from peft import LoraConfig, inject_adapter_in_model

    model = denoiser(dtype, device)
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=PEFT_TARGETS), model)
    parameters = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    for parameter in parameters:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=RATE, fused=True)
    if compiled:
        model.compile_repeated_blocks()
    data = {name: tensor.to(device) for name, tensor in item().items()}
    rows, columns = GRID
    image_ids = torch.zeros(rows, columns, 3, device=device)
    image_ids[..., 1], image_ids[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)[None]
    text_ids = torch.zeros(TEXT, 3, device=device)

    def pack(latents: torch.Tensor) -> torch.Tensor:
        squares = latents.view(1, 16, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
        return squares.reshape(1, rows * columns, 64)

    def step() -> float:
        t = torch.sigmoid(torch.randn(1, device=device))
        noisy = pack((1 - t) * data["latents"] + t * data["noise"])
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            out = model(
                hidden_states=noisy.to(dtype),
                encoder_hidden_states=data["text"].to(dtype),
                pooled_projections=data["pooled"].to(dtype),
                timestep=t,
                img_ids=image_ids.view(-1, 3),
                txt_ids=text_ids,
                return_dict=False,
            )[0]
        loss = (out.float() - pack(data["noise"] - data["latents"])).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def matmul_peak(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a square product, the best of a few."""
    a = torch.randn(2048, 2048, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * 2048**3 / best


def main() -> None:
    """Run the contest and print a table."""
    from velatura.placement.device import choose_device, choose_dtype

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled steps out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    peak = matmul_peak(dtype, device)
    contestants = {PLAIN: (plain, (dtype, device, False)), "velatura": (ours, (dtype, device, False))}
    if not options.no_compile:
        contestants["plain, compiled blocks"] = (plain, (dtype, device, True))
        contestants["velatura, compiled"] = (ours, (dtype, device, True))
    results = run(contestants, rounds=options.rounds, threads=options.threads)
    print(f"{dtype} on {device}, {options.threads} threads, matmul peak {peak / 1e9:.0f} GFLOP/s")
    print(f"{'':26}{'median s':>10}{'min s':>8}{'ratio':>8}{'of peak':>9}{'peak GiB':>10}{'torch':>9}")
    rows = []
    for name, result in results.items():
        row = {"ratio": ratio(result, results[PLAIN]), "of_peak": FLOPS / min(result.seconds) / peak}
        rows.append({"name": name, **asdict(result), **row})
        print(
            f"{name:26}{result.median:10.3f}{min(result.seconds):8.3f}{row['ratio']:8.3f}{row['of_peak']:9.1%}"
            f"{result.peak:10.2f}{result.before:9.2f}"
        )
    if options.json:
        options.json.write_text(json.dumps({"dtype": str(dtype), "peak": peak, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
