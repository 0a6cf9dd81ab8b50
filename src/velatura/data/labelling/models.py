"""Models of the transformers library, by a folder or a hub id, for captions and masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from velatura.errors import ModelError
from velatura.families.locate import locate, weight_files

_DESCRIPTION = ("*.json", "*.txt", "*.model", "*.jinja")
T = TypeVar("T")


def model_folder(model: str) -> Path:
    """Where a model lies; one on the hub is downloaded once, with pickles only where it has no safetensors.

    Raises ModelError.
    """
    folder = locate(model, Path.cwd(), patterns=(*_DESCRIPTION, "*.safetensors"))
    if folder.is_file():
        raise ModelError(f"'{model}' is a file; expected a folder with config.json and weights, or a hub id.")
    if not weight_files(folder):
        folder = locate(model, Path.cwd(), patterns=(*_DESCRIPTION, "pytorch_model*.bin"))
    return folder


def loaded(model: str, what: str, load: Callable[[Path], T]) -> T:
    """What `load` makes of a model's folder. Raises ModelError with the reason when the library cannot."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # ours is shown
    folder = model_folder(model)
    try:
        return load(folder)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"'{model}' cannot be loaded as {what}: {reason} Code that comes with a model is never run."
        ) from error


def on_device(inputs: Any, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """A processor's tensors where the model is; numbers that are no ids take its precision."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor)
    }
