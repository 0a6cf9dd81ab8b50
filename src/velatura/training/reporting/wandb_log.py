"""Weights & Biases, where a recipe asks for it: the scalars that TensorBoard gets, and the previews."""

from __future__ import annotations

import importlib
import uuid
from pathlib import Path
from typing import Any

from velatura.errors import RecipeError, VelaturaError
from velatura.events import Event, PreviewSaved, RunEnded
from velatura.recipe.recipe import Recipe
from velatura.training.folder import RunFolder
from velatura.training.reporting.scalars import scalars_of


class WandbLog:
    """A W&B run. Its id is kept in the run's folder, so that a resumed run goes on in the same charts.

    The package sends from a process of its own; what goes wrong in it is an OSError here, as with the other logs.
    """

    def __init__(self, project: str, recipe: Recipe, folder: RunFolder) -> None:
        self._wandb = import_wandb()
        try:
            self._run = self._wandb.init(
                project=project,
                name=recipe.name,
                id=_id(folder.root / "wandb-id"),
                resume="allow",
                dir=str(folder.root),
                config=recipe.model_dump(mode="json"),
            )
            # its own count of steps only rises, and a resumed run goes back
            self._run.define_metric("*", step_metric="step")
        except self._wandb.Error as error:
            raise VelaturaError(
                f"output.wandb = '{project}': Weights & Biases cannot be used ({error}). `wandb login` sets up an "
                "account, the environment variable WANDB_MODE=offline keeps everything here, and without the key "
                "nothing is sent."
            ) from error
        self._failed = False

    def __call__(self, event: Event) -> None:
        """Send the scalars of a step or a validation, or a preview. Raises OSError."""
        if isinstance(event, RunEnded):
            self._failed = event.how == "failed"
        try:
            if values := scalars_of(event) or self._picture(event):
                self._run.log(values)
        except self._wandb.Error as error:
            raise OSError(str(error)) from error

    def close(self) -> None:
        """Send what is left, and say how the run ended. Raises OSError."""
        try:
            self._run.finish(exit_code=int(self._failed))
        except self._wandb.Error as error:
            raise OSError(str(error)) from error

    def _picture(self, event: Event) -> dict[str, Any]:
        if not isinstance(event, PreviewSaved):
            return {}
        picture = self._wandb.Image(event.path, caption=event.prompt)
        return {"step": event.step, f"previews/{Path(event.path).stem}": picture}


def import_wandb() -> Any:
    """The package, which is optional. Raises RecipeError where it is not installed."""
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise RecipeError(
            f"output.wandb is set, and the package wandb cannot be imported ({error}). "
            "Install it: pip install 'velatura[wandb]'. Or leave the key out: TensorBoard needs no further package."
        ) from None


def _id(path: Path) -> str:
    """The W&B id of the run, a new one where there is none yet. Raises OSError."""
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    return path.read_text("utf-8").strip()
