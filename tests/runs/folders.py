"""Folders of runs, made up."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

from velatura.events import Event, Notice, PhaseFinished, StepFinished, ValidationFinished
from velatura.sampling.png import save_png
from velatura.sampling.request import Request
from velatura.training.lock import process_start
from velatura.training.reporting.heartbeat import Status
from velatura.training.reporting.logs import JsonLog

RECIPE = """
name = "dog"
seed = 1
[model]
family = "flux"
model = "pocket/flux"
[[data]]
folder = "photos"
resolution = [512, 768]
[adapter]
kind = "lora"
rank = 16
alpha = 16.0
[objective]
kind = "flow"
[optimizer]
kind = "adamw"
learning_rate = 0.0001
schedule = "cosine"
[training]
steps = 40
batch_size = 2
precision = "auto"
"""


def step(number: int, loss: float = 0.5, steps: int = 40) -> StepFinished:
    return StepFinished(
        step=number,
        steps=steps,
        loss=loss,
        grad_norm=1.0,
        learning_rate=1e-4,
        seconds=0.5,
        images=4,
        memory=2**30,
    )


def status(**changes: Any) -> Status:
    known: dict[str, Any] = {
        "state": "running", "phase": "train", "step": 20, "steps": 40, "loss": 0.25, "images_per_second": 8.0,
        "seconds_left": 10.0, "memory": 2**30, "pid": os.getpid(), "process_started": process_start(),
        "host": socket.gethostname(), "started": time.time() - 60, "updated": time.time() - 5,
    }  # fmt: skip
    return Status(**{**known, **changes})


def write_status(root: Path, **changes: Any) -> None:
    (root / "status.json").write_text(json.dumps(asdict(status(**changes))))


def write_run(
    root: Path,
    *,
    recipe: str = RECIPE,
    losses: Sequence[float] = (1.0, 0.75, 0.5, 0.25),
    previews: Sequence[int] = (),
    prompt: str = "a dog",
    ema: bool = False,
    **changes: Any,
) -> Path:
    """A run with a log, a status (`changes` are to it), a state, an adapter, and previews of one prompt."""
    root.mkdir(parents=True)
    (root / "recipe.toml").write_text(recipe)
    log = JsonLog(root / "events.jsonl")
    events: list[Event] = [
        PhaseFinished(phase="scan", seconds=2.0),
        Notice(message="6 images"),
        Notice(message="caption cut", level="warning"),
        *(step(number, loss) for number, loss in enumerate(losses, start=1)),
        ValidationFinished(step=2, loss=0.9),
        ValidationFinished(step=4, loss=0.6),
        PhaseFinished(phase="previews", seconds=30.0),
        PhaseFinished(phase="previews", seconds=33.0),
    ]
    for event in events:
        log(event)
    log.close()
    for folder in ("adapters", "state/000004"):
        (root / folder).mkdir(parents=True)
    (root / "adapters" / "dog-000004.safetensors").write_bytes(bytes(2**20))
    for number, label in product(previews, ("", "-ema") if ema else ("",)):
        request = Request(prompt=prompt, seed=7, width=8, height=8)
        save_png(
            Image.new("RGB", (8, 8), (number % 256, 0, 0)),
            root / "previews" / f"{number:06d}" / f"00{label}.png",
            request,
            {},
        )
    write_status(root, **changes)
    return root
