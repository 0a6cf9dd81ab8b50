"""The real command in several processes, as a launcher would start it, but without importing torch in each anew."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.distributed import TCPStore

from velatura.recipe.toml import dump_recipe
from velatura.training.planned import open_keys

from ...tiny import recipe, write_pictures
from ..conftest import tensors

SIZES = [(64, 64)] * 5 + [(96, 48)] * 2  # 5 and 2: neither fills batches of 4 or 3
SECONDS = 300  # compiling takes a while

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["velatura.cli.app", "velatura.training.run", "velatura.cli.progress"])


@dataclass(frozen=True, kw_only=True)
class Mischief:
    """What goes wrong in process `rank` when step `step` begins: `raise`, `kill` (-9), `stop` (SIGTERM)."""

    what: str
    rank: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Team:
    """What several processes left behind. `said`: what each printed; `lingered`: seconds from the first end to the last."""

    codes: list[int | None]
    said: list[str]
    folder: Path
    lingered: float

    def of(self, kind: str, key: str = "loss") -> list[Any]:
        """A value of all events of a kind."""
        lines = (self.folder / "events.jsonl").read_text().splitlines()
        return [event[key] for event in map(json.loads, lines) if event["kind"] == kind]

    @property
    def losses(self) -> list[float]:
        return self.of("StepFinished")

    def result(self) -> dict[str, Tensor]:
        """The trained weights of the last file."""
        files = sorted(self.folder.glob("adapters/*.safetensors")) + sorted(
            self.folder.glob("model-*/*/*.safetensors")
        )
        return tensors(files[-1])


Start = Callable[..., Team]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "photos", SIZES)


@pytest.fixture
def together(tmp_path: Path, photos: Path, tiny_model: Path) -> Start:
    """Train in `processes` by a recipe of plain tables, in the folder `into`."""

    def start(
        processes: int,
        *options: str,
        into: str | None = None,
        mischief: Mischief | None = None,
        **sections: Any,
    ) -> Team:
        into = into or f"runs-{processes}"
        sections["output"] = {"folder": str(tmp_path / into), **sections.get("output", {})}
        wanted = recipe(tmp_path, tiny_model, **sections)
        path = tmp_path / f"{into}.toml"
        text = dump_recipe(wanted)
        if wanted.memory.budget is not None:  # what is dumped is stated, and a plan may not choose it
            names = "|".join(key.partition(".")[2] for key in open_keys(wanted))
            text = re.sub(rf"^({names}) = .*\n", "", text, flags=re.MULTILINE)
        path.write_text(text)
        outputs = [tmp_path / f"{into}-{rank}.txt" for rank in range(processes)]
        arguments = ["train", str(path), *options]
        codes, lingered = _run_all(processes, arguments, outputs, mischief)
        return Team(
            codes=codes,
            said=[output.read_text() for output in outputs],
            folder=tmp_path / into / wanted.name,
            lingered=lingered,
        )

    return start


def _run_all(
    count: int, arguments: list[str], outputs: list[Path], mischief: Mischief | None
) -> tuple[list[int | None], float]:
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # as torchrun's agent has it
    processes = []
    for rank in range(count):
        environment = {
            **{name: value for name, value in os.environ.items() if name.startswith("VELATURA")},
            "RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
        }
        process = context.Process(
            target=work, args=(environment, arguments, str(outputs[rank]), mischief), daemon=True
        )
        process.start()
        processes.append(process)
    connection.wait([process.sentinel for process in processes], SECONDS)
    first = time.monotonic()
    for process in processes:
        process.join(max(0.1, first + SECONDS - time.monotonic()))
    lingered = time.monotonic() - first
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes, lingered


def work(environment: dict[str, str], arguments: list[str], output: str, mischief: Mischief | None) -> None:
    """One process: the command, with what it prints in a file."""
    import signal

    import torch

    from velatura.cli.app import main

    os.environ.update(environment)
    torch.set_num_threads(1)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    if mischief is not None and environment["RANK"] == str(mischief.rank):
        from velatura.errors import DataError
        from velatura.training.step import Stepper

        original = Stepper.__call__

        def broken(self: Stepper, batches: Any, seed: int, step: int) -> Any:
            if step == mischief.step:
                if mischief.what == "raise":
                    raise DataError("photos/03.png cannot be read any more")
                os.kill(os.getpid(), signal.SIGKILL if mischief.what == "kill" else signal.SIGTERM)
            return original(self, batches, seed, step)

        Stepper.__call__ = broken  # type: ignore[method-assign]
    sys.exit(main(arguments))
