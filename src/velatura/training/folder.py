"""A run's folder: where everything is, and whether a run may begin in it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from velatura.errors import RecipeError, StorageError
from velatura.training.lock import RunLock

OF_AVERAGE = "-ema"  # ends the names of what the moving average of the weights is saved as, or painted


class RunFolder:
    """The layout that docs/guides/training.md shows."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.root / "recipe.toml"

    @property
    def events(self) -> Path:
        """The event log."""
        return self.root / "events.jsonl"

    @property
    def status(self) -> Path:
        """How the run is doing now, or how it ended."""
        return self.root / "status.json"

    @property
    def tensorboard(self) -> Path:
        """The folder of scalars that TensorBoard shows."""
        return self.root / "tensorboard"

    @property
    def report(self) -> Path:
        """The report that people open."""
        return self.root / "report.html"

    @property
    def states(self) -> Path:
        """Exact states, one folder per saved step."""
        return self.root / "state"

    def request(self, name: str) -> Path:
        """A file that asks something of the run while it is on: `stop` or `save`."""
        return self.root / name

    def data(self, fingerprint: str) -> Path:
        """The list of the images that are trained on, each with its identity: one for each set of them."""
        return self.root / "data" / Path(f"{fingerprint}.json").name  # what a state says leads nowhere else

    def state(self, step: int) -> Path:
        """The state after a step."""
        return self.states / f"{step:06d}"

    @property
    def previews_page(self) -> Path:
        """All previews of the run side by side."""
        return self.root / "previews" / "index.html"

    def previews(self, step: int) -> Path:
        """The images painted after a step."""
        return self.root / "previews" / f"{step:06d}"

    def adapter(self, step: int, label: str) -> Path:
        """An adapter file; `label` sets averages and further formats apart."""
        return self.root / "adapters" / f"{self.name}-{step:06d}{label}.safetensors"

    def model(self, step: int, label: str = "") -> Path:
        """A model folder, for runs that train whole parts; `label` sets averages apart."""
        return self.root / f"model-{step:06d}{label}"

    def check(self, *, resume: bool) -> None:
        """Refuse what `create` and `lock` would refuse; nothing is written."""
        self._refuse_other_run(resume)
        existing = next(path for path in (self.root, *self.root.parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            why = "may not be written to" if existing.is_dir() else "is a file"
            raise StorageError(
                f"cannot write in {self.root}: {existing} {why}. Choose another output.folder."
            )
        for path in (
            self.states,
            self.data("").parent,
            self.adapter(0, "").parent,
            self.previews_page.parent,
        ):
            if path.exists() and not path.is_dir():
                raise StorageError(f"{path} is a file, and a run has a folder of this name: move it away.")
        self.lock().refuse_running()

    def create(self, *, resume: bool) -> None:
        """Make the folder. A folder that already holds a run is refused unless the run is to be resumed."""
        self._refuse_other_run(resume)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / ".write-test"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StorageError(
                f"cannot write in {self.root}: {error.strerror}. Choose another output.folder."
            ) from None

    def remove_partial(self) -> None:
        """Remove what a kill left half written, which may be as large as a model; only for who holds the lock."""
        for path in self.root.rglob(".*.partial"):  # as `checkpoints.writing` and the heartbeat name them
            with suppress(OSError):  # it stays, and harms nothing
                path.unlink()

    def _refuse_other_run(self, resume: bool) -> None:
        if self.recipe.exists() and not resume:
            self.lock().refuse_running()  # a run that is on is neither to be gone on with nor to be removed
            raise RecipeError(
                f"the folder {self.root} already holds a run. Go on with it: --resume. "
                "Or start another: change `name`, or remove the folder."
            )

    def lock(self) -> RunLock:
        """Hold this while the run is on."""
        return RunLock(self.root / ".lock", alive=self.status)
