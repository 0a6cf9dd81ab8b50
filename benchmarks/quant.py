"""Error and speed of a linear layer whose weights are held in few bits, forwards and backwards; and what that costs.

    python benchmarks/quant.py [--device cpu] [--width 1024] [--tokens 512] [--repeats 20] [--pictures 0] [--json FILE]

Errors are relative, of the output and of the input's gradient, against the unrounded layer in float32; "heavy" inputs
have the tails and outlier channels of a transformer's activations. Times are medians of a forward and a backward pass,
layers interleaved. On a GPU `--width 3072 --tokens 4608` are those of FLUX.1 at 1024 x 1024.

`--pictures N` paints N captions with the pocket FLUX, each with full weights and each kind from the same noise, and
scores them: share of the stated attributes that are right, and of pictures that are wholly right, each with its
difference from full weights and the standard error of that.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Sequence
from typing import get_args

import arguments
import numpy as np
import torch
from torch import Tensor, nn

from velatura.placement.device import choose_dtype
from velatura.placement.precision.quantised import LINEARS, Weights
from velatura.pocket.checker import check
from velatura.pocket.dataset import WorldSource
from velatura.sampling.pipeline import Pipeline


def inputs(shape: tuple[int, int], *, heavy: bool) -> Tensor:
    """Normal values `[tokens, width]`; `heavy`: times log-normal ones, a channel in a hundred eight times as large."""
    x = torch.randn(shape)
    if heavy:
        x = x * torch.randn(shape).exp()
        x[:, ::100] *= 8
    return x


def both_ways(layer: nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the gradient of x."""
    x = x.detach().requires_grad_()
    out = layer(x)
    (found,) = torch.autograd.grad(out, x, gradient)
    return out.detach(), found


def relative(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|."""
    return float((found.float() - wanted).norm() / wanted.norm())


def errors(width: int, tokens: int) -> list[dict[str, object]]:
    """A row for each kind of layer and input."""
    rows: list[dict[str, object]] = []
    for heavy in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(width, width)
        x, gradient = (inputs((tokens, width), heavy=heavy) for _ in range(2))
        out, back = both_ways(layer, x, gradient)
        for name, kind in LINEARS.items():
            found, its_back = both_ways(kind.of(layer), x, gradient)
            rows.append(
                {
                    "weights": name,
                    "inputs": "heavy" if heavy else "normal",
                    "output": relative(found, out),
                    "gradient": relative(its_back, back),
                }
            )
    return rows


def seconds(width: int, tokens: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Median of a forward and a backward pass by kind of layer."""
    dtype = choose_dtype("auto", device)
    full = nn.Linear(width, width).requires_grad_(False)
    layers: dict[str, nn.Module] = {"full": full, **{name: kind.of(full) for name, kind in LINEARS.items()}}
    layers = {name: layer.to(device) for name, layer in layers.items()}
    layers["full"].to(dtype)
    x, gradient = (torch.randn(tokens, width, device=device, dtype=dtype) for _ in range(2))
    times: dict[str, list[float]] = {name: [] for name in layers}
    for _ in range(repeats + 2):
        for name, layer in layers.items():
            _wait(device)
            started = time.perf_counter()
            both_ways(layer, x, gradient)
            _wait(device)
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(found[2:]) for name, found in times.items()}


def scores(
    count: int, steps: int, device: str, kinds: Sequence[Weights] = get_args(Weights)
) -> list[dict[str, object]]:
    """A row for each kind of weights and score: points, the paired difference from full weights, its standard error."""
    source = WorldSource(seed=11, split="held-out")
    pipelines = {kind: Pipeline.load("pocket/flux", device=device, weights=kind) for kind in kinds}
    found: dict[tuple[str, str], list[float]] = {
        (kind, score): [] for score in ("attributes", "pictures") for kind in pipelines
    }
    for index in range(count):
        caption = source.text(index, source.scene(index))
        for kind, pipeline in pipelines.items():
            (picture,) = pipeline(caption, seed=index, steps=steps)
            result = check(np.asarray(picture), caption)
            found[kind, "attributes"].append(100 * statistics.mean(mark.right for mark in result.marks))
            found[kind, "pictures"].append(100.0 * result.right)
    rows: list[dict[str, object]] = []
    for (kind, score), points in found.items():
        apart = [one - full for one, full in zip(points, found["full", score], strict=True)]
        rows.append(
            {
                "weights": kind,
                "score": score,
                "right": statistics.mean(points),
                "apart": statistics.mean(apart),
                "error": statistics.stdev(apart) / math.sqrt(count),
            }
        )
    return rows


def pictures(text: str) -> int:
    """How many are scored: the error of a mean needs two."""
    return 0 if text == "0" else arguments.at_least(2)(text)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure, print, and write JSON."""
    parser = arguments.parser(__doc__)
    parser.add_argument(
        "--device", type=arguments.device, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--width", type=arguments.at_least(2, step=2), default=1024)
    parser.add_argument("--tokens", type=arguments.count, default=512)
    parser.add_argument("--repeats", type=arguments.count, default=20)
    parser.add_argument(
        "--pictures", type=pictures, default=0, help="How many are scored; 0: none, else at least 2."
    )
    parser.add_argument("--steps", type=arguments.count, default=12, help="Sampling steps of a picture.")
    given = parser.parse_args()
    rows = errors(given.width, given.tokens)
    print(f"{'weights':<10}{'inputs':<10}{'output':>10}{'gradient':>10}")
    for row in rows:
        print(f"{row['weights']:<10}{row['inputs']:<10}{row['output']:>10.4f}{row['gradient']:>10.4f}")
    times = seconds(given.width, given.tokens, given.device, given.repeats)
    for name, found in times.items():
        print(f"{name:<10}{1e3 * found:>10.2f} ms {found / times['full']:>8.2f} x full")
    scored = scores(given.pictures, given.steps, str(given.device)) if given.pictures else []
    for row in scored:
        print(
            f"{row['weights']:<10}{row['right']:>7.1f} % of {row['score']} right"
            f"{row['apart']:>+8.2f} +- {row['error']:.2f} points"
        )
    if given.json is not None:
        given.json.write_text(json.dumps({"errors": rows, "seconds": times, "scores": scored}, indent=2))


if __name__ == "__main__":
    main()
