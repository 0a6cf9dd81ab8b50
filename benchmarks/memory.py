"""Planned against measured peak memory of a training step on the CPU.

    python benchmarks/memory.py [--blocks 3 12] [--json FILE]

Trains a random FLUX of the pocket model's shape, and one with more blocks, for two steps per row, and follows torch's
CPU allocator through the second one. `ratio` is planned / measured; within 0.95 to 1.05 is wanted.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arguments
from PIL import Image

from velatura.families.locate import POCKET
from velatura.planning.devices import device_named
from velatura.planning.estimate import Estimator
from velatura.planning.measuring import measure
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import parse_recipe

MIB = 2**20
RECIPE = """
name = "memory"
[model]
model = "{model}"
from_scratch = ["denoiser"]
[[data]]
folder = "{base}/photos"
resolution = 256
[{trained}]
[training]
compile = false
"""
ROWS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("LoRA", "adapter", ()),
    ("LoRA, batch 2", "adapter", ("training.batch_size=2",)),
    ("LoRA, batch 2 in 2 passes", "adapter", ("training.batch_size=2", "memory.micro_batch=1")),
    ("LoRA, recomputed", "adapter", ("training.checkpoint_blocks=true",)),
    ("LoRA, fp8 weights", "adapter", ("memory.weights=fp8",)),
    ("LoRA, int8 weights", "adapter", ("memory.weights=int8",)),
    ("LoRA, nf4 weights", "adapter", ("memory.weights=nf4",)),
    ("LoRA, 2 passes", "adapter", ("training.accumulate=2",)),
    ("LoRA, no cache", "adapter", ("memory.cache=false",)),
    ("full", "full", ()),
    ("full, recomputed", "full", ("training.checkpoint_blocks=true",)),
    ("full, bf16", "full", ("training.precision=bf16",)),
    ("full, muon", "full", ("optimizer.kind=muon",)),
    ("full, 8-bit averages", "full", ("optimizer.kind=adamw8bit",)),
    ("full, fused backward", "full", ("optimizer.fused_backward=true", "optimizer.clip=0")),
)


def deeper(base: Path, blocks: tuple[int, int] | None) -> Path:
    """The pocket FLUX with another number of double and single blocks, as configs."""
    if blocks is None:
        return POCKET / "flux"
    folder = base / f"flux-{blocks[0]}-{blocks[1]}"
    shutil.copytree(POCKET / "flux", folder)
    path = folder / "transformer" / "config.json"
    shape = {"num_layers": blocks[0], "num_single_layers": blocks[1]}
    path.write_text(json.dumps({**json.loads(path.read_text()), **shape}))
    return folder


def rows(base: Path, model: Path) -> Iterator[dict[str, Any]]:
    """One comparison after the other."""
    device = device_named("cpu")
    for number, (name, trained, sets) in enumerate(ROWS):
        text = RECIPE.format(model=model, base=base, trained=trained)
        precision = () if any("precision" in line for line in sets) else ("training.precision=fp32",)
        into = (f"output.folder={base}/runs", f"name=row-{model.name}-{number}")
        recipe: Recipe = parse_recipe(text, sets=(*sets, *precision, *into))
        estimate = Estimator.of_recipe(recipe, base, device).of(recipe)
        planned = estimate.step.peak.total + estimate.sizes.data
        measured = measure(recipe, base).peak
        yield {"name": name, "planned": planned, "measured": measured, "ratio": planned / measured}


def main() -> None:
    """Compare all rows for both models and print a table."""
    parser = arguments.parser(__doc__)
    parser.add_argument(
        "--blocks", nargs=2, type=arguments.count, default=(3, 12), metavar=("DOUBLE", "SINGLE")
    )
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        os.environ["VELATURA_CACHE"] = str(base / "cache")
        (base / "photos").mkdir()
        for number in range(2):
            Image.effect_noise((256, 256), 60).convert("RGB").save(base / "photos" / f"{number}.png")
        print(f"{'':34}{'planned MiB':>13}{'measured MiB':>14}{'ratio':>8}")
        for what, blocks in (("pocket", None), ("deeper", tuple(options.blocks))):
            for row in rows(base, deeper(base, blocks)):
                found.append({"model": what, **row})
                print(
                    f"{what + ', ' + row['name']:34}{row['planned'] / MIB:13.1f}{row['measured'] / MIB:14.1f}"
                    f"{row['ratio']:8.3f}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
