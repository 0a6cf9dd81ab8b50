"""The errors that a user sees: each message says what was received, what is allowed and what to do."""

from __future__ import annotations


class VelaturaError(Exception):
    """Base of every error meant for a user; anything else that escapes is a bug.

    `exit_code` is what the command returns: 2 for a bad recipe or bad data, 3 for a budget, 1 otherwise.
    """

    exit_code = 1


def reason(error: BaseException) -> str:
    """What any error says, for a message: ours as it is, another's with its kind."""
    if isinstance(error, VelaturaError):
        return str(error)
    return ": ".join(filter(None, [type(error).__name__, str(error)]))


class RecipeError(VelaturaError):
    """A recipe, an option or a value in one that is not allowed."""

    exit_code = 2


class DataError(VelaturaError):
    """A dataset, an image or a caption that cannot be used."""

    exit_code = 2


class ModelError(VelaturaError):
    """A model file, folder or hub id that is missing, of another kind, or damaged."""

    exit_code = 2


class CheckpointError(ModelError):
    """A weights file that cannot be read or written: damaged, hostile, of the wrong shape."""


class NumericError(VelaturaError):
    """A loss, gradient or weight that is not finite."""


class StorageError(VelaturaError):
    """A disk that is full, or a path that cannot be written."""


class FolderLost(VelaturaError):
    """A run's folder that was taken away while the run was on."""


class MemoryShortage(VelaturaError):
    """Less memory than is needed, of the machine or of the device."""


class BudgetError(VelaturaError):
    """A memory budget that cannot be met."""

    exit_code = 3
