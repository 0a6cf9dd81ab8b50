"""Exact states on disk: what comes back, what damage is seen, what a kill leaves behind."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from velatura.errors import CheckpointError, RecipeError, StorageError
from velatura.training.states import manifest as manifests
from velatura.training.states import state as states
from velatura.training.states.identity import Identity
from velatura.training.states.saved_states import Saved, load_state, saved_before
from velatura.training.states.state import (
    RunState,
    is_state,
    read_values,
    record_made,
    save_state,
)

from ...tiny import Log

ONE = Identity(recipe={"seed": 1, "optimizer.betas": [0.9, 0.1 + 0.2]}, data="d1", model={"denoiser": "w1"})
OTHER = replace(ONE, data="d2")


def made(step: int, *, average: bool = True) -> RunState:
    """A state with values that show its step."""
    generator = torch.Generator().manual_seed(step)

    def some() -> dict[str, Tensor]:
        return {"a.down": torch.randn(3, 4, generator=generator), "b.up": torch.randn(2, generator=generator)}

    moments = {f"{name}/exp_avg": value for name, value in some().items()}
    return RunState(
        step=step,
        identity=ONE,
        values=some(),
        average=some() if average else None,
        optimizer={**moments, "a.down/step": torch.tensor(float(step))},
        scaler={"scale": 0.1 + 0.2, "growth_factor": 2.0, "_growth_tracker": 3},
        skipped=2,
        validated=True,
        painted=("00 a", "01 b"),
    )


def same(a: RunState | None, b: RunState) -> bool:
    assert a is not None

    def equal(x: object, y: object) -> bool:
        assert isinstance(x, dict)
        assert isinstance(y, dict)
        return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)

    groups = equal(a.values, b.values) and equal(a.optimizer, b.optimizer)
    averages = equal(a.average or {}, b.average or {})
    facts = [(s.step, s.identity, s.scaler, s.skipped, s.validated, s.painted) for s in (a, b)]
    return groups and averages and facts[0] == facts[1]


@pytest.mark.parametrize("average", [True, False])
def test_what_was_saved_is_loaded_bit_for_bit(tmp_path: Path, average: bool) -> None:
    state, log = made(7, average=average), Log()
    assert save_state(tmp_path, state, keep=2) == tmp_path / "000007"
    assert same(load_state(tmp_path, log.events), state)
    assert not log.seen


def test_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path / "none", Log().events) is None


def test_old_states_are_removed(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save_state(tmp_path, made(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000010", "000015"]


@pytest.mark.parametrize(
    "file", ["values.safetensors", "average.safetensors", "optimizer.safetensors", "manifest.json"]
)
def test_any_flipped_byte_is_seen_and_the_state_before_is_used(tmp_path: Path, file: str) -> None:
    save_state(tmp_path, made(5), keep=3)
    save_state(tmp_path, made(10), keep=3)
    path = tmp_path / "000010" / file
    whole = path.read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        log = Log()
        found = load_state(tmp_path, log.events)
        if found is not None and found.step == 10:  # white space in the manifest says nothing
            assert file == "manifest.json"
            assert same(found, made(10))
            continue
        assert same(found, made(5))
        assert "state 10 is damaged and is skipped" in log.texts


@pytest.mark.parametrize("damage", ["cut", "gone", "empty", "list"])
def test_damaged_files_are_seen(tmp_path: Path, damage: str) -> None:
    for file in ("values.safetensors", "manifest.json"):
        folder = tmp_path / file
        save_state(folder, made(5), keep=3)
        path = save_state(folder, made(10), keep=3) / file
        whole = path.read_bytes()
        path.unlink()
        if damage != "gone":
            path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "list": b"[1]"}[damage])
        log = Log()
        assert same(load_state(folder, log.events), made(5))
        assert "state 10 is damaged" in log.texts


def test_a_state_under_another_number_is_no_state(tmp_path: Path) -> None:
    save_state(tmp_path, made(5), keep=3)
    shutil.copytree(tmp_path / "000005", tmp_path / "000099")
    assert same(load_state(tmp_path, Log().events), made(5))


def test_a_state_of_another_version_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    """A run would begin anew, and remove the states."""
    save_state(tmp_path, made(5), keep=2)
    manifest = tmp_path / "000005" / "manifest.json"
    facts = json.loads(manifest.read_text())
    for change in ({"format": manifests.FORMAT + 1}, {"format": None}):
        other = {**facts, **change}
        manifest.write_text(json.dumps({**other, "manifest": manifests._own_checksum(other)}))
        for read in (lambda: load_state(tmp_path, Log().events), lambda: saved_before(tmp_path)):
            with pytest.raises(
                RecipeError,
                match=f"was saved by another version of velatura .format .*, this one reads {manifests.FORMAT}",
            ):
                read()


def test_what_was_shown_after_a_step_is_noted_later(tmp_path: Path) -> None:
    path = save_state(tmp_path, replace(made(5), validated=False, painted=()), keep=2)
    record_made(path, exported=True, validated=True, painted=("00 a",))
    assert same(load_state(tmp_path, Log().events), replace(made(5), validated=True, painted=("00 a",)))
    before = (path / "manifest.json").stat().st_ino
    record_made(path, exported=True, validated=True, painted=("00 a",))  # nothing new: the file stays
    assert (path / "manifest.json").stat().st_ino == before
    assert sorted(entry.name for entry in path.iterdir())[:2] == ["average.safetensors", "manifest.json"]


STAGES = [
    (states, "write_safetensors"),
    (manifests, "_checksum"),
    (manifests, "write_bytes"),
    (shutil, "rmtree"),
    (os, "replace"),
    (states, "sync_folder"),
]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage[1])
@pytest.mark.parametrize("when", [1, 2, 3])
@pytest.mark.parametrize("keep", [1, 2])
def test_a_kill_between_any_two_stages_leaves_a_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: tuple[Any, str], when: int, keep: int
) -> None:
    """Death at the `when`-th call of each function that touches the disk: before it, and after it."""
    for after in (False, True):
        save_state(tmp_path, made(5), keep=keep)  # removes what is later
        with monkeypatch.context() as patch:
            _die_at(patch, stage, when, after=after)
            try:
                save_state(tmp_path, made(10), keep=keep)
            except Killed:
                found = load_state(tmp_path, Log().events)
                assert same(found, made(5)) or same(found, made(10))
    save_state(tmp_path, made(10), keep=keep)  # the next run clears up behind the dead one
    assert same(load_state(tmp_path, Log().events), made(10))
    assert not list(tmp_path.glob(".*"))


class Killed(BaseException):
    """Not caught by anything."""


def _die_at(patch: pytest.MonkeyPatch, stage: tuple[Any, str], when: int, *, after: bool) -> None:
    place, name = stage
    real, calls = getattr(place, name), []

    def dying(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == when and not after:
            raise Killed
        result = real(*arguments, **options)
        if len(calls) == when:
            raise Killed
        return result

    patch.setattr(place, name, dying)


@pytest.mark.parametrize("change", ["damaged", "of another branch"])
def test_a_state_behind_which_the_run_went_back_is_replaced(tmp_path: Path, change: str) -> None:
    save_state(tmp_path, made(5), keep=2)
    path = save_state(tmp_path, replace(made(10), skipped=7), keep=2) / "values.safetensors"
    if change == "damaged":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    save_state(tmp_path, made(10), keep=2)
    assert same(load_state(tmp_path, Log().events), made(10))


def test_a_run_that_went_back_behind_a_damaged_state_keeps_what_it_saves_now(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save_state(tmp_path, made(step), keep=3)
    for step in (20, 30):
        (tmp_path / f"0000{step}" / "values.safetensors").write_bytes(b"")
    assert same(load_state(tmp_path, Log().events), made(10))
    save_state(tmp_path, made(15), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000010", "000015"]
    assert same(load_state(tmp_path, Log().events), made(15))


@pytest.mark.parametrize("stage", [STAGES[0], STAGES[2], STAGES[4]], ids=lambda stage: stage[1])
def test_a_full_disk_is_told_and_the_states_before_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: tuple[Any, str]
) -> None:
    save_state(tmp_path, made(5), keep=1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*stage, full)
    with pytest.raises(StorageError, match="the state of step 10: .*No space left on device"):
        save_state(tmp_path, made(10), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["000005"]
    assert same(load_state(tmp_path, Log().events), made(5))


def test_a_disk_that_is_known_to_be_too_small_is_told_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, made(5), keep=1)
    room = shutil._ntuple_diskusage(10**9, 10**9, 300)  # for the values, not for the optimizer
    monkeypatch.setattr("velatura.training.states.state.shutil.disk_usage", lambda _: room)
    monkeypatch.setattr(states, "write_safetensors", None)  # nothing is begun
    with pytest.raises(StorageError, match="cannot save the state of step 10: .* has 300 free; make room"):
        save_state(tmp_path, made(10), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["000005"]
    assert same(load_state(tmp_path, Log().events), made(5))


def test_the_identity_of_the_newest_state_is_told_from_its_manifest(tmp_path: Path) -> None:
    assert saved_before(tmp_path) is None
    save_state(tmp_path, made(5), keep=2)
    save_state(tmp_path, replace(made(10), identity=OTHER), keep=2)
    (tmp_path / "000010" / "values.safetensors").unlink()  # is not looked at
    assert saved_before(tmp_path) == Saved(step=10, identity=OTHER, skipped=())
    assert saved_before(tmp_path, 5) == Saved(step=5, identity=ONE, skipped=())
    (tmp_path / "000010" / "manifest.json").write_text("{")
    found = saved_before(tmp_path)
    assert found is not None
    assert (found.step, found.identity) == (5, ONE)
    assert [line.split(":")[0] for line in found.skipped] == ["state 10 is damaged and is skipped"]


def test_where_no_state_is_whole_nothing_begins_anew(tmp_path: Path) -> None:
    for step in (5, 10):
        save_state(tmp_path, made(step), keep=2)
        (tmp_path / f"{step:06d}" / "manifest.json").write_text("{")
    for read in (lambda: load_state(tmp_path, Log().events), lambda: saved_before(tmp_path)):
        with pytest.raises(CheckpointError, match="no state in .* is whole:\n  state 10: .*\n  state 5: .*"):
            read()


def test_the_state_of_a_step(tmp_path: Path) -> None:
    for step in (5, 10):
        save_state(tmp_path, made(step), keep=2)
    assert same(load_state(tmp_path, Log().events, 5), made(5))
    with pytest.raises(CheckpointError, match="no state of step 7; there are those of steps 5, 10"):
        load_state(tmp_path, Log().events, 7)
    (tmp_path / "000005" / "values.safetensors").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match="no state in .* is whole:\n  state 5: "
    ):  # and not that of step 10
        load_state(tmp_path, Log().events, 5)
    with pytest.raises(CheckpointError, match="no state of step 7; there is none at all"):
        load_state(tmp_path / "none", Log().events, 7)


def test_the_values_alone(tmp_path: Path) -> None:
    """For another run that begins with them; whoever copied the state may have named it."""
    path = save_state(tmp_path, made(5), keep=2).rename(tmp_path / "best")
    assert is_state(path)
    assert not is_state(tmp_path)
    assert all(torch.equal(read_values(path)[name], value) for name, value in made(5).values.items())
    (path / "values.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        read_values(path)
