"""What streaming costs: a step with a share of the weights streamed beside one with all of them on the device.

    python benchmarks/stream.py [--device auto|cpu|cuda] [--shares 0.25 0.5 1] [--size 256] [--threads 2] [--rounds 5]
        [--predict 4090 h200] [--toy] [--json FILE]

First, measured: a LoRA training step and a sampling step, resident and streamed, with real copies. On the CPU, where a
copy is work for the same cores, the network is that of step.py and contestants take turns; on CUDA it is FLUX.1-dev at
1024 x 1024, and they come one after the other. "recomputed" is resident with all blocks recomputed, which takes
activations off the device as streaming takes weights.

Then, predicted for --predict at 1024 x 1024: FLUX.1-dev's own blocks, without values, are run through velatura's
streaming over a link with a clock. A block takes the arithmetic of its shape at the device's speed, a copy its bytes at
the link's (see velatura.planning.devices); sampling is a step of a picture of 20. "waited": seconds in which the
computation stood still for copies.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import arguments
import torch
from clock import ClockLink, clocked
from contest import Contestants, Failed, Result, ratio, run
from gpu import TEXT, TOY, Arm, conditioning, denoiser, finished, trainer
from step_shape import SHAPE, info

STEPS, PICTURE = 2, 20  # of a picture that is measured, and of one that is predicted
SIZE = 1024  # of FLUX.1-dev's pictures
RESIDENT, RECOMPUTED = "resident", "resident, recomputed"


def training(arm: Arm, config: dict[str, Any], device: str, dtype: torch.dtype) -> Callable[[], object]:
    """A LoRA training step."""
    return trainer(arm, config, torch.device(device), dtype)


def sampling(arm: Arm, config: dict[str, Any], device: str, dtype: torch.dtype) -> Callable[[], object]:
    """`STEPS` steps of painting latents."""
    from velatura.families.flux import FluxFamily
    from velatura.interfaces import Parts
    from velatura.placement.place import place

    family, where = FluxFamily(), torch.device(device)
    model = denoiser(config, dtype, torch.device("cpu") if arm.streamed else where)
    if arm.streamed:
        place(model, family.blocks(model), family.ahead(model), share=arm.streamed, device=where)
    parts, text = Parts(info=info(), denoiser=model), conditioning(config, 1).to(where, dtype)
    return lambda: finished(where, _painted(family, parts, text, arm.size, STEPS))


def measured(
    arms: dict[str, Arm], make: Callable[..., Callable[[], object]], arguments: tuple[Any, ...], *, rounds: int,
    threads: int, together: bool,
) -> dict[str, Result]:  # fmt: skip
    """Seconds of all arms; `together`: they take turns, else one after the other, where memory holds one alone."""
    contestants: Contestants = {name: (make, (arm, *arguments)) for name, arm in arms.items()}
    turns = [contestants] if together else [{name: one} for name, one in contestants.items()]
    found: dict[str, Result] = {}
    for some in turns:
        try:
            found |= run(some, rounds=rounds, threads=threads)
        except Failed as failed:
            if together:
                raise
            print(failed, flush=True)  # the other arms are still measured
    return found


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Seconds of a step by the clock, and those in which the computation waited for copies."""

    seconds: float
    waited: float


def predicted(device: Any, config: dict[str, Any], *, share: float, trained: bool, size: int) -> Prediction:
    """The second step, or picture, of two, so that the ring of blocks is in its rhythm; `device`: as plans know it."""
    from velatura.families.flux import FluxFamily
    from velatura.interfaces import Parts
    from velatura.placement.place import place

    family, nowhere = FluxFamily(), torch.device("meta")
    link = ClockLink(bandwidth=device.link)
    model = denoiser(config, torch.bfloat16, nowhere)
    width, tokens = config["num_attention_heads"] * config["attention_head_dim"], (size // 16) ** 2 + TEXT
    linears = 24 * width**2 * tokens / device.half
    attention = 4 * width * tokens**2 / device.attends(torch.bfloat16)
    for layer in family.ahead(model):
        clocked(layer, link, layer.forward, forward=layer.weight.nbytes / device.bandwidth, backward=0.0)
    doubles, singles = len(model.transformer_blocks), len(model.single_transformer_blocks)
    passing = [*([_streams] * doubles), *([_tokens] * (singles - 1)), _image]
    for block, passed in zip(family.blocks(model), passing, strict=True):
        # of frozen linears the backward pass has the input's gradient alone
        clocked(block, link, passed, forward=linears + attention, backward=linears + 2 * attention)
    if share:
        place(model, family.blocks(model), family.ahead(model), share=share, device=nowhere, link=link)
    parts, text = Parts(info=info(), denoiser=model), conditioning(config, 1).to(nowhere, torch.bfloat16)
    latents = torch.randn(1, 16, size // 8, size // 8, device=nowhere, requires_grad=trained)

    def step() -> None:
        if trained:
            family.predict(parts, latents, torch.ones(1, device=nowhere), text).sum().backward()
        else:
            _painted(family, parts, text, size, PICTURE)

    step()
    before = link.computed, link.stalled
    step()
    steps = 1 if trained else PICTURE
    return Prediction(seconds=(link.computed - before[0]) / steps, waited=(link.stalled - before[1]) / steps)


def _streams(text: torch.Tensor, image: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What a double block gives, as far as shapes go."""
    return text, image


def _tokens(tokens: torch.Tensor, *_: Any) -> torch.Tensor:
    """What a single block gives."""
    return tokens


def _image(tokens: torch.Tensor, image: torch.Tensor, *_: Any) -> torch.Tensor:
    """What the last one gives."""
    return image


def _painted(family: Any, parts: Any, text: Any, size: int, steps: int) -> torch.Tensor:
    """Latents."""
    from velatura.sampling.painter import filled, paint
    from velatura.sampling.request import Request

    request = filled(Request(prompt="", width=size, height=size, steps=steps), parts.info)
    return paint(family, parts, request, text, device=text.tensors["text"].device)


def predictions(
    config: dict[str, Any], names: list[str], shares: list[float], size: int
) -> Iterator[dict[str, Any]]:
    """A row for each device, kind of step and share."""
    from velatura.planning.devices import device_named

    for name in names:
        device = device_named(name)
        for what, trained in (("training", True), ("sampling", False)):
            resident = predicted(device, config, share=0.0, trained=trained, size=size).seconds
            for share in shares:
                found = predicted(device, config, share=share, trained=trained, size=size)
                yield {
                    "device": name,
                    "link": device.link,
                    "flops": device.half,
                    "what": what,
                    "share": share,
                    "resident": resident,
                    "seconds": found.seconds,
                    "waited": found.waited,
                }


def measurements(options: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    """A row for each kind of step and arm."""
    from velatura.placement.device import choose_dtype

    config, size = shape(options, device)
    common = (config, str(device), choose_dtype("auto", device))
    arms = {RESIDENT: Arm(size=size, compiled=False)}
    streamed = {
        f"{share:.0%} streamed": Arm(size=size, streamed=share, compiled=False) for share in options.shares
    }
    recomputed = {RECOMPUTED: Arm(size=size, recompute=True, compiled=False)}
    for what, make, chosen in (
        ("training", training, arms | recomputed | streamed),
        ("sampling", sampling, arms | streamed),
    ):
        steps = STEPS if what == "sampling" else 1
        results = measured(
            chosen,
            make,
            common,
            rounds=options.rounds,
            threads=options.threads,
            together=device.type != "cuda",
        )
        for name, result in results.items():
            seconds = result.median / steps
            resident = results.get(RESIDENT)  # which a card may be too small for
            to_resident = None if resident is None else ratio(result, resident)
            yield {"what": what, "name": name, "seconds": seconds, "ratio": to_resident}


def shape(options: argparse.Namespace, device: torch.device) -> tuple[dict[str, Any], int]:
    """Config of the network that is measured, and the pictures' edge."""
    config = dev()
    if options.toy:
        return {**config, **TOY}, options.size or 128
    return (
        (config, options.size or SIZE)
        if device.type == "cuda"
        else ({**config, **SHAPE}, options.size or 256)
    )


def dev() -> dict[str, Any]:
    """FLUX.1-dev's."""
    from velatura.checkpoints.published import load_config

    return {**load_config("flux-dev-transformer"), "guidance_embeds": True}


def main() -> None:
    """Measure, predict, and print two tables."""
    parser = arguments.parser(__doc__)
    parser.add_argument("--device", type=arguments.device, default="auto")
    parser.add_argument("--shares", type=arguments.share, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument(
        "--size",
        type=arguments.at_least(16, step=16),
        help="pixels, edge of what is measured; default: 256 on the CPU, else 1024",
    )
    parser.add_argument("--threads", type=arguments.count, default=2)
    parser.add_argument("--rounds", type=arguments.count, default=5)
    parser.add_argument(
        "--predict", type=arguments.planned_device, nargs="*", default=["4090", "h200"], metavar="NAME"
    )
    parser.add_argument("--toy", action="store_true", help="a tiny network, to see that the script runs")
    options = parser.parse_args()
    device = options.device
    print(f"measured on {device}, with real copies\n{'':34}{'s/step':>9}{'to resident':>13}")
    found = []
    for row in measurements(options, device):
        found.append(row)
        to_resident = f"{row['ratio']:13.3f}" if row["ratio"] is not None else f"{'-':>13}"
        print(f"{row['what'] + ', ' + row['name']:34}{row['seconds']:9.3f}{to_resident}", flush=True)
    print(f"\npredicted for FLUX.1-dev at {SIZE} x {SIZE}, bf16")
    print(f"{'':34}{'resident':>9}{'s/step':>9}{'to resident':>13}{'waited':>9}")
    expected = []
    for row in predictions({**dev(), **TOY} if options.toy else dev(), options.predict, options.shares, SIZE):
        expected.append(row)
        name = f"{row['device']}, {row['what']}, {row['share']:.0%} streamed"
        to_resident = row["seconds"] / row["resident"]
        print(
            f"{name:34}{row['resident']:9.3f}{row['seconds']:9.3f}{to_resident:13.3f}{row['waited']:9.3f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"measured": found, "predicted": expected}, indent=2))


if __name__ == "__main__":
    main()
