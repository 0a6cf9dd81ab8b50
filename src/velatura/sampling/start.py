"""The picture that painting starts from, read with the same care as the pictures of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from velatura.data.images import decode
from velatura.data.places import FilePlace
from velatura.data.scanning.probe import BadImageError, Probe, damage, read_image
from velatura.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class StartPicture:
    """A file that holds a picture, and what its header says. Its pixels are not decoded yet."""

    path: Path
    data: bytes
    header: Probe

    def decoded(self) -> Image.Image:
        """Upright RGB in sRGB. Raises RecipeError for a damaged file."""
        try:
            return decode(self.data)
        except Exception as error:
            raise _unusable(self.path, damage(error)) from None


def read_start(path: Path) -> StartPicture:
    """Raises RecipeError where there is no regular file, or none that begins and ends as a picture does."""
    if not path.exists():
        raise _unusable(path, "there is no such file")
    try:
        data, header = read_image(FilePlace(str(path)))
        return StartPicture(path=path, data=data, header=header)
    except BadImageError as error:
        raise _unusable(path, str(error)) from None


def _unusable(path: Path, why: str) -> RecipeError:
    return RecipeError(f"--image {path} cannot be read: {why}")
