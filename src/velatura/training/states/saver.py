"""Writing the states of a run, by all processes that it has, and knowing which one is the newest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from velatura.data.progress import phase
from velatura.events import Events, FileSaved
from velatura.training.distribution.part_files import write_parts
from velatura.training.setup import Setup
from velatura.training.states.state import (
    Groups,
    RunState,
    groups_of,
    record_made,
    save_state,
    staging,
    write_whole,
)


class Saver:
    """`newest` is the state of `step`, None while there is none."""

    def __init__(self, setup: Setup, events: Events) -> None:
        self.setup = setup
        self.events = events
        self.team = setup.team
        self.newest: Path | None = None
        self.step = -1

    def found(self, step: int) -> None:
        """The run goes on from the state of this step."""
        self.newest, self.step = self.setup.folder.state(step), step

    def save(self, state: RunState) -> None:
        """Write a state. Where weights are sharded each process writes its parts, else the leader writes all.

        Raises StorageError, FolderLost.
        """
        if self.team.leads:
            self._write(state)
        elif self.setup.sharded:
            self._write_parts(staging(self.setup.folder.states, state.step), groups_of(state))
        self.step = state.step
        self.team.wait()

    def note(self, step: int, *, exported: bool, validated: bool, painted: Sequence[str]) -> None:
        """Record in the newest state, if it is of this step, what was made after it."""
        if self.team.leads and self.newest is not None and self.step == step:
            record_made(self.newest, exported=exported, validated=validated, painted=painted)

    def _write(self, state: RunState) -> None:
        self.setup.folder.lock().require_held()
        output = self.setup.recipe.output
        with phase(self.events, "saving the state", 0):
            self.newest = save_state(
                self.setup.folder.states,
                state,
                keep=output.keep_states,
                keep_every=output.keep_every,
                write=self._write_parts if self.setup.sharded else write_whole,
            )
        self.events(FileSaved(step=state.step, what="state", path=str(self.newest)))

    def _write_parts(self, staged: Path, groups: Groups) -> None:
        self.team.wait()  # the leader makes the folder
        for name, tensors in groups.items():
            write_parts(staged / name, tensors, self.team)
