"""Time of a sampling step: ours beside diffusers' FluxPipeline, same random weights, interleaved.

    python benchmarks/sample.py [--tokens 1024+256|256+128] [--batch 1 4] [--dtype auto|bf16|fp32] [--threads 2]
        [--rounds 5] [--steps 4] [--no-compile] [--json FILE]

Shape and weights are those of step.py. A contestant paints latents in so many steps from the same noise, without and
with classifier-free guidance, one picture and a batch of four; text is encoded before, and nothing is decoded. Each has
a process of its own and they take turns. Ratios, the median over rounds, are to the eager FluxPipeline: below 1 is
faster. --toy takes two blocks and few tokens, to see that the script runs.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import arguments
import torch
from contest import Contestants, Result, ratio, run
from step_shape import SHAPE, SIZES, Tokens, info

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

PLAIN, OURS = "diffusers FluxPipeline", "velatura"
CFG = 3.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is painted."""

    batch: int
    cfg: bool
    steps: int
    dtype: torch.dtype
    device: torch.device
    tokens: Tokens
    toy: bool = False

    @property
    def size(self) -> int:
        """Pixels, edge of a square."""
        return 64 if self.toy else 16 * self.tokens.rows

    def text(self) -> dict[str, torch.Tensor]:
        """Encoded prompt and negative prompt, a row each: text `[2, L, joint]`, pooled `[2, pooled]`."""
        torch.manual_seed(1)
        text = torch.randn(2, 16 if self.toy else self.tokens.text, SHAPE["joint_attention_dim"])
        pooled = torch.randn(2, SHAPE["pooled_projection_dim"])
        return {"text": text.to(self.device, self.dtype), "pooled": pooled.to(self.device, self.dtype)}

    def noise(self) -> torch.Tensor:
        """`[B, 16, H, W]`, that which ours draws for seed 0."""
        from velatura.draws import Draw

        edge = self.size // 8
        return Draw.of(0, slots=range(self.batch)).normal("sample", (16, edge, edge)).to(self.device)

    def denoiser(self) -> FluxTransformer2DModel:
        """The same random weights for every contestant."""
        from diffusers import FluxTransformer2DModel

        torch.manual_seed(0)
        shape = {**SHAPE, "num_layers": 1, "num_single_layers": 1} if self.toy else SHAPE
        model = FluxTransformer2DModel(**shape).requires_grad_(False)
        return torch.nn.Module.to(model, self.device, self.dtype)  # diffusers' own warns of bf16


def ours(case: Case, compiled: bool) -> Callable[[], torch.Tensor]:
    """Paints as `velatura generate` does, perhaps with `--compile`: latents `[B, 16, H, W]`."""
    from velatura.families.flux import FluxFamily
    from velatura.families.flux_blocks import use_our_blocks
    from velatura.interfaces import Conditioning, Parts
    from velatura.placement.compiling import compile_for_painting
    from velatura.sampling.painter import filled, paint
    from velatura.sampling.request import Request

    family, model = FluxFamily(), case.denoiser()
    use_our_blocks(model)
    if compiled:
        compile_for_painting(family.blocks(model))
    about = info(case.size, case.steps, CFG if case.cfg else 1.0)
    parts = Parts(info=about, denoiser=model)
    request = filled(Request(prompt="", batch=case.batch), about)
    conditioning = Conditioning(tensors=case.text())

    def step() -> torch.Tensor:
        return _finished(paint(family, parts, request, conditioning, device=case.device))

    return step


def plain(case: Case, compiled: bool) -> Callable[[], torch.Tensor]:
    """Diffusers' own pipeline, given the encoded prompts: packed latents `[B, N, 64]`."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    model = case.denoiser()
    if compiled:
        model.compile_repeated_blocks()
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = FluxPipeline(scheduler, None, None, None, None, None, model)
    pipe.set_progress_bar_config(disable=True)
    noise, text = case.noise(), case.text()
    packed = pipe._pack_latents(noise, *noise.shape).to(case.dtype)

    def rows(name: str, row: int) -> torch.Tensor:
        return text[name][row : row + 1].expand(case.batch, *text[name].shape[1:])

    arguments: dict[str, Any] = {"prompt_embeds": rows("text", 0), "pooled_prompt_embeds": rows("pooled", 0)}
    if case.cfg:
        arguments["negative_prompt_embeds"] = rows("text", 1)
        arguments["negative_pooled_prompt_embeds"] = rows("pooled", 1)
        arguments["true_cfg_scale"] = CFG

    def step() -> torch.Tensor:
        painted = pipe(
            width=case.size,
            height=case.size,
            num_inference_steps=case.steps,
            latents=packed,
            output_type="latent",
            return_dict=False,
            **arguments,
        )
        return _finished(painted[0])

    return step


def _finished(latents: torch.Tensor) -> torch.Tensor:
    """The latents, once the device has computed them."""
    if latents.is_cuda:
        torch.cuda.synchronize()
    return latents


def contest(case: Case, *, rounds: int, threads: int, compiled: bool) -> dict[str, Result]:
    """All contestants on one case; seconds are of a picture or batch."""
    contestants: Contestants = {
        PLAIN: (plain, (case, False)),
        OURS: (ours, (case, False)),
    }
    if compiled:
        contestants["velatura, compiled"] = (ours, (case, True))
        contestants["diffusers, compiled blocks"] = (plain, (case, True))
    return run(contestants, rounds=rounds, threads=threads, warm=1)


def main() -> None:
    """Run a contest for each case and print a table."""
    from velatura.placement.device import choose_dtype

    parser = arguments.parser(__doc__)
    parser.add_argument("--dtype", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--device", type=arguments.device, default="auto")
    parser.add_argument("--tokens", default="1024+256", choices=SIZES)
    parser.add_argument("--threads", type=arguments.count, default=2)
    parser.add_argument("--rounds", type=arguments.count, default=5)
    parser.add_argument("--steps", type=arguments.count, default=4, help="sampling steps of a picture")
    parser.add_argument("--batch", type=arguments.count, nargs="+", default=[1, 4])
    parser.add_argument("--no-compile", action="store_true", help="leave compiled blocks out")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    device, dtype = options.device, choose_dtype(options.dtype, options.device)
    print(
        f"{dtype} on {device}, {options.threads} threads, {options.tokens} tokens, seconds per sampling step"
    )
    print(f"{'':40}{'median s':>10}{'min s':>8}{'ratio':>8}{'peak GiB':>10}")
    rows = []
    for batch, cfg in product(options.batch, (False, True)):
        case = Case(
            batch=batch,
            cfg=cfg,
            steps=options.steps,
            dtype=dtype,
            device=device,
            tokens=SIZES[options.tokens],
            toy=options.toy,
        )
        results = contest(
            case, rounds=options.rounds, threads=options.threads, compiled=not options.no_compile
        )
        for name, result in results.items():
            each = [seconds / case.steps for seconds in result.seconds]
            row = {
                "median": statistics.median(each),
                "min": min(each),
                "ratio": ratio(result, results[PLAIN]),
            }
            rows.append(
                {"batch": batch, "cfg": cfg, "name": name, **row, "peak": result.peak, "seconds": each}
            )
            what = f"batch {batch}{', cfg' if cfg else ''}: {name}"
            print(
                f"{what:40}{row['median']:10.3f}{row['min']:8.3f}{row['ratio']:8.3f}{result.peak:10.2f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(
            json.dumps({"dtype": str(dtype), "tokens": options.tokens, "rows": rows}, indent=2)
        )


if __name__ == "__main__":
    main()
