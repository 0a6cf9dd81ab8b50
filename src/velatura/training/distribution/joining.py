"""Joining the other processes of a run, and ending with them: the first error is told, and told once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from velatura.errors import RecipeError, VelaturaError, reason
from velatura.placement.device import choose_device
from velatura.training.distribution.launch import Launch, of_one_voice
from velatura.training.distribution.meeting import store_for
from velatura.training.distribution.team import Team
from velatura.training.distribution.watch import SILENCE, Watch
from velatura.training.stop import Interrupted

ARRIVAL = timedelta(minutes=10)  # until all processes are there
PATIENCE = timedelta(
    hours=24
)  # for one that writes or paints; a process that ends is noticed at once all the same


class PeerFailed(VelaturaError):
    """Another process of the run failed, so that this one cannot go on."""


def device_for(launch: Launch, name: str) -> torch.device:
    """The device of this process: several on one machine take a GPU each. Raises RecipeError.

    A GPU that is named becomes torch's current one: page-locked memory and libraries open their contexts there.
    """
    device = choose_device(name)
    if launch.size > 1 and device.type != "cpu":
        device = _its_own(launch, device, name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def _its_own(launch: Launch, device: torch.device, name: str) -> torch.device:
    """The GPU that is for this process alone."""
    if device.type != "cuda" or (device.index is not None and launch.local_size > 1):
        raise RecipeError(
            f"training.device = '{name}': {launch.local_size} processes of this machine cannot share one device. "
            "Use 'cuda', with which each takes a GPU of its own, or 'cpu'."
        )
    if device.index is None:
        device = torch.device("cuda", launch.local_rank)
    if (count := torch.cuda.device_count()) < launch.local_size:
        raise RecipeError(
            f"{launch.local_size} processes were started on this machine, which has {count} usable GPUs: start one per "
            "GPU (--nproc-per-node), or use training.device = 'cpu'."
        )
    return device


@contextmanager
def joined(launch: Launch, device: str) -> Iterator[Team]:
    """The team while the block runs, for a run on `device` ("cuda", …).

    Where the block fails in any process it ends in all: see `failing_together`. Raises RecipeError for a device that
    these processes cannot use.
    """
    if launch.size == 1:
        yield Team()
        return
    with of_one_voice(launch):
        backend = "gloo" if device_for(launch, device).type == "cpu" else "cpu:gloo,cuda:nccl"
    team = _met(launch, backend)
    watch = team.watch
    assert watch is not None
    try:
        with failing_together(team):
            yield team
            watch.leave()
            if watch.news is not None:
                raise PeerFailed(watch.news)
    except VelaturaError as error:
        silent = not watch.speaks if isinstance(error, PeerFailed) else watch.said_before(str(error))
        if silent:
            raise SystemExit(error.exit_code) from None
        raise
    dist.destroy_process_group()


def _met(launch: Launch, backend: str) -> Team:
    try:
        store = store_for(launch.rank, launch.size, ARRIVAL)
        dist.init_process_group(
            backend, store=store, rank=launch.rank, world_size=launch.size, timeout=ARRIVAL
        )
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
        watched = dist.new_group(backend="gloo", timeout=SILENCE)
    except RuntimeError as error:
        raise PeerFailed(
            f"process {launch.rank} did not meet the other {launch.size - 1} of this run: {str(error).splitlines()[0]}"
        ) from error
    return Team(launch=launch, control=control, watch=Watch(watched, launch))


@contextmanager
def failing_together(team: Team) -> Iterator[None]:
    """Tell the others why the block fails here; where it fails because another process ended, raise PeerFailed.

    Interrupted, where another process was stopped before there was anything to save. Blocks may lie in each other.
    """
    watch = team.watch
    if watch is None:
        yield
        return
    try:
        yield
    except Interrupted:
        if not watch.has_spoken:
            watch.stop()
        raise
    except BaseException as error:
        if watch.has_spoken or isinstance(error, PeerFailed):
            raise
        if isinstance(error, RuntimeError) and watch.wait_for_news():  # a connection broke
            assert watch.news is not None
            raise Interrupted if watch.stopped else PeerFailed(watch.news) from None
        message = reason(error)
        _record(message)
        watch.fail(message)
        raise


def _record(message: str) -> None:
    """Let torchrun name this error as the cause, when it tells how the run ended."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(OSError):
            Path(path).write_text(json.dumps({"message": message, "timestamp": int(time.time())}))
