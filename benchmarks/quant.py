"""Error and speed of a linear layer whose weights are held in 8 bits, forwards and backwards.

    python benchmarks/quant.py [--device cpu] [--width 1024] [--tokens 512] [--repeats 20] [--json FILE]

Errors are relative, of the output and of the input's gradient, against the unrounded layer in float32; "heavy" inputs
have the tails and outlier channels of a transformer's activations. Times are medians of a forward and a backward pass,
layers interleaved. On a GPU `--width 3072 --tokens 4608` are those of FLUX.1 at 1024 x 1024.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from velatura.placement.device import choose_dtype
from velatura.placement.quantised import LINEARS


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
            found, its_back = both_ways(kind(layer), x, gradient)
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
    layers: dict[str, nn.Module] = {"full": full, **{name: kind(full) for name, kind in LINEARS.items()}}
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


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = errors(given.width, given.tokens)
    print(f"{'weights':<10}{'inputs':<10}{'output':>10}{'gradient':>10}")
    for row in rows:
        print(f"{row['weights']:<10}{row['inputs']:<10}{row['output']:>10.4f}{row['gradient']:>10.4f}")
    times = seconds(given.width, given.tokens, torch.device(given.device), given.repeats)
    for name, found in times.items():
        print(f"{name:<10}{1e3 * found:>10.2f} ms {found / times['full']:>8.2f} x full")
    if given.json is not None:
        given.json.write_text(json.dumps({"errors": rows, "seconds": times}, indent=2))


if __name__ == "__main__":
    main()
