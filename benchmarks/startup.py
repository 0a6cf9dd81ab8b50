"""Time from process start to the first finished training step on the pocket model, with a warm cache.

    python benchmarks/startup.py [--repeats 3] [--json FILE]

Each repeat is a fresh `velatura train` process of 300 steps, as the demo's, with `compile = "auto"`; it is ended after
its first step. The first run, which fills the cache, is not counted.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import arguments

RECIPE = """
name = "startup-{number}"
[model]
model = "pocket/flux"
[[data]]
folder = "photos"
resolution = 96
[adapter]
rank = 16
[training]
steps = 300
batch_size = 4
[previews]
baseline = false
[output]
folder = "{folder}/runs"
"""


def first_step(folder: Path, number: int) -> float:
    """Seconds until the event log has its first step."""
    recipe = folder / f"recipe-{number}.toml"
    recipe.write_text(RECIPE.format(number=number, folder=folder.as_posix()))
    environment = {**os.environ, "VELATURA_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    log = folder / "runs" / f"startup-{number}" / "events.jsonl"
    started = time.perf_counter()
    command = [sys.executable, "-m", "velatura.cli.app", "train", str(recipe)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if log.exists() and '"StepFinished"' in log.read_text():
            seconds = time.perf_counter() - started
            process.kill()
            process.wait()
            return seconds
        time.sleep(0.02)
    raise SystemExit("velatura train ended before its first step; run it by hand to see why")


def main() -> None:
    """Measure and print."""
    parser = arguments.parser(__doc__)
    parser.add_argument("--repeats", type=arguments.count, default=3)
    options = parser.parse_args()
    from velatura.pocket.dataset import concept_dataset

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        concept_dataset(folder / "photos", count=16)
        cold = first_step(folder, 0)
        warm = [first_step(folder, number + 1) for number in range(options.repeats)]
    median = statistics.median(warm)
    print(
        f"first step: cold cache {cold:.1f} s, warm cache {median:.1f} s (median of {len(warm)}), at most 12 s wanted"
    )
    if options.json:
        options.json.write_text(json.dumps({"cold": cold, "warm": warm}))


if __name__ == "__main__":
    main()
