"""What stays of what a run saves."""

from __future__ import annotations

from pathlib import Path

import pytest

from velatura.events import Event, FileSaved
from velatura.training.states.retention import kept

from ..conftest import Train


@pytest.mark.parametrize(
    ("keep", "every", "expected"),
    [
        (2, None, {40, 50}),
        (None, None, {10, 20, 30, 40, 50}),
        (1, 20, {20, 40, 50}),
        (9, 7, {10, 20, 30, 40, 50}),
    ],
)
def test_the_newest_and_the_round_ones_stay(keep: int | None, every: int | None, expected: set[int]) -> None:
    assert kept([50, 10, 20, 30, 40, 60], newest=50, keep=keep, every=every) == expected


@pytest.mark.parametrize("full", [False, True])
def test_old_states_and_exports_go(run: Train, full: bool) -> None:
    mine = "tiny-000001-merged.safetensors"

    def watch(event: Event) -> None:
        if isinstance(event, FileSaved) and event.what == "adapter":
            Path(event.path).with_name(mine).write_text("")

    sections = {"full": {"parts": ["denoiser"], "only": "proj_out.*"}} if full else {}
    output = {"keep_states": 1, "keep_exports": 1, "keep_every": 2}
    output |= {} if full else {"formats": ["kohya", "comfy"]}
    done = run(training={"steps": 5, "save_every": 1}, output=output, watch=watch, **sections)
    assert sorted(path.name for path in (done.folder / "state").iterdir()) == ["000002", "000004", "000005"]
    if full:
        exports = sorted(path.name for path in done.folder.glob("model-*"))
        assert exports == ["model-000002", "model-000004", "model-000005"]
        return
    exports = sorted(path.name for path in (done.folder / "adapters").iterdir())
    steps = [f"tiny-00000{step}{label}.safetensors" for step in (2, 4, 5) for label in ("-comfy", "")]
    assert exports == sorted([*steps, mine])  # what someone else put there stays


def test_all_exports_stay_where_nothing_is_said(run: Train) -> None:
    done = run(training={"steps": 3, "save_every": 1})
    assert len(list((done.folder / "adapters").iterdir())) == 3
