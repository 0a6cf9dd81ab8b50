"""Time of a LoRA training step: ours beside a plain loop over diffusers and peft, same shape, interleaved.

    python benchmarks/step.py [--dtype auto|bf16|fp32] [--threads 2] [--repeats 5] [--compile] [--json FILE]

Shape: FLUX blocks 768 wide, 12 heads, 3 double + 6 single, 1024 image + 256 text tokens, rank 16 on attention and
MLP linears, AdamW. A step is forward, backward and update of one item. Ratios below 1 mean that ours is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from velatura.adapters.attach import put_on_fresh
from velatura.adapters.targets import choose
from velatura.families.flux import FluxFamily, unpack
from velatura.families.flux_forward import use_our_attention
from velatura.interfaces import Conditioning, ModelInfo, Parts, SamplingDefaults
from velatura.placement.compiling import compile_blocks
from velatura.placement.device import choose_device, choose_dtype

GRID, TEXT, RANK = (32, 32), 256, 16
SHAPE = {
    "num_layers": 3,
    "num_single_layers": 6,
    "attention_head_dim": 64,
    "num_attention_heads": 12,
    "joint_attention_dim": 512,
    "pooled_projection_dim": 256,
    "axes_dims_rope": (8, 28, 28),
}
PEFT_TARGETS = [
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp"),
]
FLOPS = (
    0.50e12  # of one step, attention included: 6 FLOP per weight and token less the frozen weights' gradients
)


def denoiser(dtype: torch.dtype, device: torch.device) -> FluxTransformer2DModel:
    """The same random weights for every contestant."""
    torch.manual_seed(0)
    return FluxTransformer2DModel(**SHAPE).to(device, dtype).requires_grad_(False)


def sample(dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """One item: packed latents, noise, text."""
    torch.manual_seed(1)
    tokens = GRID[0] * GRID[1]
    return {
        "latents": torch.randn(1, tokens, 64, device=device),
        "noise": torch.randn(1, tokens, 64, device=device),
        "text": torch.randn(1, TEXT, 512, device=device, dtype=dtype),
        "pooled": torch.randn(1, 256, device=device, dtype=dtype),
    }


def ours(dtype: torch.dtype, device: torch.device, compiled: bool) -> Callable[[], float]:
    """A step of velatura: own LoRA layer, own forward, fused AdamW."""
    model, data, family = denoiser(dtype, device), sample(dtype, device), FluxFamily()
    use_our_attention(family.blocks(model))
    targets = choose(family.targets(model), ["attention", "mlp"]).targets
    adapter = put_on_fresh(model, targets, rank=RANK, alpha=RANK, seed=0)
    parameters = list(adapter.parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    if compiled:
        compile_blocks(family.blocks(model), sizes=1)
    info = ModelInfo(
        family="flux",
        variant="benchmark",
        architecture="flux-1-schnell",
        latent_channels=16,
        latent_scale=8,
        size_step=16,
        prediction="velocity",
        shifted=True,
        defaults=SamplingDefaults(size=512, steps=4),
        fingerprints={},
    )
    parts = Parts(info=info, denoiser=model)
    conditioning = Conditioning(tensors={"text": data["text"], "pooled": data["pooled"]})
    clean, noise = unpack(data["latents"], GRID), unpack(data["noise"], GRID)
    t = torch.full((1,), 0.6, device=device)

    def step() -> float:
        velocity = family.predict(parts, 0.4 * clean + 0.6 * noise, t, conditioning)
        loss = (velocity - (noise - clean)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def plain(dtype: torch.dtype, device: torch.device, compiled: bool) -> Callable[[], float]:
    """A step as the diffusers example scripts write it."""
    model, data = denoiser(dtype, device), sample(dtype, device)
    single = [f"single_transformer_blocks.{i}.proj_out" for i in range(SHAPE["num_single_layers"])]  # type: ignore[arg-type, call-overload]
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=[*PEFT_TARGETS, *single])
    inject_adapter_in_model(config, model)
    parameters = [p for name, p in model.named_parameters() if "lora_" in name]
    for parameter in parameters:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    if compiled:
        model.compile_repeated_blocks()
    rows, columns = GRID
    image_ids = torch.zeros(rows, columns, 3, device=device)
    image_ids[..., 1], image_ids[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)[None]
    image_ids = image_ids.view(-1, 3)
    text_ids = torch.zeros(TEXT, 3, device=device)
    t = torch.full((1,), 0.6, device=device)

    def step() -> float:
        noisy = 0.4 * data["latents"] + 0.6 * data["noise"]
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            out = model(
                hidden_states=noisy.to(dtype),
                encoder_hidden_states=data["text"],
                pooled_projections=data["pooled"],
                timestep=t,
                img_ids=image_ids,
                txt_ids=text_ids,
                return_dict=False,
            )[0]
        loss = (out.float() - (data["noise"] - data["latents"])).square().mean()
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


def timed(step: Callable[[], float], device: torch.device) -> float:
    """Seconds of one step."""
    started = time.perf_counter()
    step()  # returns the loss, so the device has finished
    return time.perf_counter() - started


def main() -> None:
    """Run the contest and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also time the compiled steps")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    contestants = {
        "plain diffusers + peft": plain(dtype, device, False),
        "velatura": ours(dtype, device, False),
    }
    if options.compile:
        contestants["plain, compiled blocks"] = plain(dtype, device, True)
        contestants["velatura, compiled"] = ours(dtype, device, True)
    for step in contestants.values():
        step()  # warm-up, compilation
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.repeats):
        for name, step in contestants.items():
            times[name].append(timed(step, device))
    peak = matmul_peak(dtype, device)
    base = statistics.median(times["plain diffusers + peft"])
    rows = []
    print(f"{dtype} on {device}, {options.threads} threads, matmul peak {peak / 1e9:.0f} GFLOP/s")
    print(f"{'':28}{'median s':>10}{'min s':>10}{'ratio':>8}{'of peak':>9}")
    for name, values in times.items():
        median = statistics.median(values)
        row = {"name": name, "median": median, "min": min(values), "ratio": median / base}
        rows.append(row | {"of_peak": FLOPS / min(values) / peak})
        print(
            f"{name:28}{median:10.3f}{min(values):10.3f}{median / base:8.3f}{FLOPS / min(values) / peak:9.1%}"
        )
    print(
        f"peak memory of the process: {psutil.Process().memory_info().rss / 2**30:.2f} GiB resident at the end"
    )
    if options.json:
        options.json.write_text(json.dumps({"dtype": str(dtype), "peak": peak, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
