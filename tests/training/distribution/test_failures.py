"""A process that fails, is killed or is asked to stop: all end, and it is said why."""

from __future__ import annotations

from typing import Any

from .conftest import Mischief, Start

ENDLESS: dict[str, Any] = {"training": {"steps": 100_000, "batch_size": 1, "save_every": 100_000}}

DIED = (
    "error: process {} of this run ended without a word (killed, perhaps for lack of memory); --resume goes on from "
    "the state that was saved last"
)


def test_the_error_of_one_process_ends_all(together: Start) -> None:
    run = together(2, mischief=Mischief(what="raise", rank=1, step=3), **ENDLESS)
    assert run.codes == [1, 2]
    assert run.lingered < 15
    assert run.said[1].strip() == "error: photos/03.png cannot be read any more"
    assert run.said[0].strip().splitlines()[-1] == (
        "error: process 1 of this run failed: photos/03.png cannot be read any more"
    )
    assert "Connection" not in run.said[0]
    assert "Traceback" not in run.said[0]


def test_the_leaders_error_is_told_once(together: Start) -> None:
    run = together(2, mischief=Mischief(what="raise", rank=0, step=3), **ENDLESS)
    assert run.codes == [2, 1]
    assert run.said[0].strip().splitlines()[-1] == "error: photos/03.png cannot be read any more"
    assert run.said[1] == ""


def test_a_killed_process_is_noticed(together: Start) -> None:
    run = together(2, mischief=Mischief(what="kill", rank=1, step=3), **ENDLESS)
    assert run.codes == [1, -9]
    assert run.lingered < 15
    assert run.said[0].strip().splitlines()[-1] == DIED.format(1)


def test_when_the_leader_is_killed_one_other_says_so(together: Start) -> None:
    run = together(4, mischief=Mischief(what="kill", rank=0, step=3), **ENDLESS)
    assert run.codes == [-9, 1, 1, 1]
    assert run.lingered < 15
    assert run.said[1].strip() == DIED.format(0)
    assert run.said[2:] == ["", ""]


def test_a_stop_of_one_process_stops_all_at_the_same_step(together: Start) -> None:
    run = together(2, mischief=Mischief(what="stop", rank=1, step=3), **ENDLESS)
    assert run.codes == [75, 75]
    assert (run.folder / "state/000004").is_dir()


def test_a_mistake_in_the_recipe_is_told_once(together: Start) -> None:
    run = together(2, "--set", "training.stepz=3", **ENDLESS)
    assert run.codes == [2, 2]
    assert "stepz" in run.said[0]
    assert run.said[1] == ""
