"""Time of a LoRA training step: ours beside a plain loop over diffusers and peft, and beside the peers' own networks.

    python benchmarks/step.py [--tokens 1024+256|256+128|both] [--peers DIR] [--dtype auto|bf16|fp32] [--threads 2]
        [--rounds 7] [--no-compile] [--json FILE]

Shape: FLUX blocks 768 wide, 12 heads, 3 double + 6 single, image + text tokens, rank 16 on attention and MLP linears. A
step is forward, backward, clipping and fused AdamW on one item; ours is what `velatura train` runs: compiled for data
of one size, and for data of several, which one graph serves then. `--peers`: a folder with clones of sd-scripts and
DiffSynth-Studio, whose FLUX and LoRA take part then (see step_peers.py). Each contestant has a process of its own and
they take turns. "of fastest": time by that of the fastest eager peer, the median over rounds; below 1 ours is faster.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import arguments
import torch
from contest import Contestants, Result, Step, ratio, run
from step_peers import peers
from step_shape import RANK, RATE, SINGLE, SIZES, Tokens, denoiser, ids, info, item, written_out

if TYPE_CHECKING:
    from velatura.interfaces import Batch

PEFT_TARGETS = [
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp"),
    *(f"single_transformer_blocks.{number}.proj_out" for number in range(SINGLE)),
]
PLAIN = "plain diffusers + peft"
PROCESS = ExitStack()  # entered for as long as a contestant's process lives


def ours(tokens: Tokens, dtype: torch.dtype, device: torch.device, sizes: int) -> Step:
    """A step of velatura's own trainer; compiled for data of so many sizes, where there are any."""
    from velatura.adapters.attach import put_on_fresh
    from velatura.adapters.targets import choose
    from velatura.families.flux import FluxFamily
    from velatura.families.flux_blocks import use_our_blocks
    from velatura.interfaces import Parts
    from velatura.objectives.flow import Flow
    from velatura.placement.compiling import compile_blocks
    from velatura.placement.heap import freed_memory_kept
    from velatura.recipe.objectives.flow import FlowObjective
    from velatura.recipe.training.optimizer import Optimizer
    from velatura.training.optimizer import make_optimizer
    from velatura.training.step import Stepper

    family, model = FluxFamily(), denoiser(dtype, device)
    parts = Parts(info=info(), denoiser=model)
    use_our_blocks(model)
    adapter = put_on_fresh(
        model, choose(family.targets(model), ["attention", "mlp"]).targets, rank=RANK, alpha=RANK, seed=0
    )
    if sizes:
        compile_blocks(family.blocks(model), sizes)
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
    PROCESS.enter_context(freed_memory_kept(device))
    batch, count = _batch(tokens), iter(range(10**9))
    return lambda: stepper([batch], 0, next(count)).loss


def _batch(tokens: Tokens) -> Batch:
    from velatura.interfaces import Batch, Conditioning, Prompt

    data = item(tokens)
    return Batch(
        names=("one",),
        prompts=(Prompt(text=""),),
        weights=torch.ones(1),
        slots=(0,),
        latents=data["latents"],
        conditioning=Conditioning(tensors={"text": data["text"], "pooled": data["pooled"]}),
    )


def plain(tokens: Tokens, dtype: torch.dtype, device: torch.device, compiled: bool) -> Step:
    """A step as the diffusers example scripts write it: LoRA in float32 under autocast."""
    from peft import LoraConfig, inject_adapter_in_model

    model = denoiser(dtype, device)
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=PEFT_TARGETS), model)
    parameters = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    for parameter in parameters:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    if compiled:
        model.compile_repeated_blocks()
    data = {name: tensor.to(device, dtype) for name, tensor in item(tokens).items()}
    text_ids, image_ids = ids(tokens, device)

    def predict(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = model(
            hidden_states=noisy,
            encoder_hidden_states=data["text"],
            pooled_projections=data["pooled"],
            timestep=t,
            img_ids=image_ids,
            txt_ids=text_ids,
            return_dict=False,
        )[0]
        return out

    return written_out(predict, parameters, tokens, dtype, device, autocast=True)


def matmul_peak(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a square product, the best of a few."""
    a = torch.randn(2048, 2048, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * 2048**3 / best


def contestants(
    tokens: Tokens, dtype: torch.dtype, device: torch.device, *, compiled: bool, clones: Path | None
) -> tuple[Contestants, list[str]]:
    """All who take part, and the names of the eager ones that are not ours."""
    given = (tokens, dtype, device)
    them: Contestants = {PLAIN: (plain, (*given, False))}
    if clones is not None:
        them |= {name: (make, (*given, clones)) for name, make in peers(clones).items()}
    all_: Contestants = {**them, "velatura": (ours, (*given, 0))}
    if compiled:
        all_["plain, compiled blocks"] = (plain, (*given, True))
        all_["velatura, compiled"] = (ours, (*given, 1))
        all_["velatura, several sizes"] = (ours, (*given, 2))
    return all_, list(them)


def show(
    results: dict[str, Result], eager: list[str], tokens: Tokens, peak: float
) -> list[dict[str, object]]:
    """Print the table of one size, and return its rows."""
    fastest = min(eager, key=lambda name: results[name].median)
    print(f"\n{tokens} tokens; fastest eager peer: {fastest}")
    print(f"{'':26}{'median s':>10}{'min s':>8}{'of fastest':>12}{'of peak':>9}{'peak GiB':>10}{'torch':>7}")
    rows: list[dict[str, object]] = []
    for name, result in results.items():
        least, share = min(result.seconds), ratio(result, results[fastest])
        of_peak = tokens.flops / least / peak
        rows.append(
            {"tokens": str(tokens), "name": name, "ratio": share, "of_peak": of_peak, **asdict(result)}
        )
        print(
            f"{name:26}{result.median:10.3f}{least:8.3f}{share:12.3f}{of_peak:9.1%}{result.peak:10.2f}{result.before:7.2f}"
        )
    return rows


def main() -> None:
    """Run the contest and print a table for each size."""
    from velatura.placement.device import choose_dtype

    parser = arguments.parser(__doc__)
    parser.add_argument("--tokens", default="both", choices=[*SIZES, "both"], help="image + text")
    parser.add_argument(
        "--peers", type=arguments.folder, help="folder with clones of sd-scripts and DiffSynth-Studio"
    )
    parser.add_argument("--dtype", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--device", type=arguments.device, default="auto")
    parser.add_argument("--threads", type=arguments.count, default=2)
    parser.add_argument("--rounds", type=arguments.count, default=7)
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled steps out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, dtype = options.device, choose_dtype(options.dtype, options.device)
    peak = matmul_peak(dtype, device)
    print(f"{dtype} on {device}, {options.threads} threads, matmul peak {peak / 1e9:.0f} GFLOP/s")
    if options.peers is None:
        print("sd-scripts and DiffSynth-Studio do not take part: --peers names the folder with their clones")
    rows = []
    for tokens in SIZES.values() if options.tokens == "both" else [SIZES[options.tokens]]:
        chosen, eager = contestants(
            tokens, dtype, device, compiled=not options.no_compile, clones=options.peers
        )
        results = run(chosen, rounds=options.rounds, threads=options.threads)
        rows += show(results, eager, tokens, peak)
    if options.json:
        options.json.write_text(json.dumps({"dtype": str(dtype), "peak": peak, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
