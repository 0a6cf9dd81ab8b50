"""What an optimizer's update costs: nanoseconds for each trained value, plain and compiled, beside torch's own kernel.

    python benchmarks/updates.py [--device auto|cpu|cuda] [--values 8e6] [--threads 2] [--rounds 7] [--json FILE]

The weights are four matrices 1024 wide, of --values or a little less. "torch" is torch.optim.AdamW over float32
weights, fused: what a trainer without 8-bit averages or bf16 weights has. Contestants take turns, in a process each.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import arguments
import torch
from contest import Contestants, ratio, run
from torch import nn

WIDTH, TENSORS = 1024, 4
PLAIN = "torch, adamw, float32"
KINDS = [
    ("adamw", torch.bfloat16),
    ("adamw8bit", torch.float32),
    ("adamw8bit", torch.bfloat16),
    ("adafactor", torch.float32),
    ("adafactor", torch.bfloat16),
]


def updater(kind: str, dtype: torch.dtype, compiled: bool, rows: int, device: str) -> Callable[[], object]:
    """An update of all weights."""
    from velatura.placement.compiling import compiled_update
    from velatura.recipe.training.optimizer import Optimizer
    from velatura.training.optimizer import make_optimizer

    generator = torch.Generator().manual_seed(0)
    weights = {
        str(number): nn.Parameter(torch.randn(rows, WIDTH, generator=generator).to(device, dtype))
        for number in range(TENSORS)
    }
    for weight in weights.values():
        weight.grad = torch.randn_like(weight)
    section = Optimizer(kind=kind)
    optimizer = make_optimizer(section, weights, compiled=compiled_update if compiled else None)

    def step() -> None:
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def main() -> None:
    """Measure, and print a table."""
    parser = arguments.parser(__doc__)
    parser.add_argument("--device", type=arguments.device, default="auto")
    parser.add_argument("--values", type=arguments.at_least(TENSORS * WIDTH), default="8e6")
    parser.add_argument("--threads", type=arguments.count, default=2)
    parser.add_argument("--rounds", type=arguments.count, default=7)
    options = parser.parse_args()
    device, rows_each = options.device.type, options.values // (TENSORS * WIDTH)
    values = TENSORS * WIDTH * rows_each
    contestants: Contestants = {PLAIN: (updater, ("adamw", torch.float32, False, rows_each, device))}
    for kind, dtype in KINDS:
        for way, compiled in (("plain", False), ("compiled", True)):
            name = f"{kind}, {str(dtype).removeprefix('torch.')}, {way}"
            contestants[name] = (updater, (kind, dtype, compiled, rows_each, device))
    found = run(contestants, rounds=options.rounds, threads=options.threads)
    print(f"{values:.3g} values on {device}\n{'':32}{'ns/value':>10}{'to torch':>10}")
    rows = []
    for name, result in found.items():
        each, to_torch = result.median / values * 1e9, ratio(result, found[PLAIN])
        rows.append({"name": name, "ns": each, "ratio": to_torch})
        print(f"{name:32}{each:10.2f}{to_torch:10.2f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
