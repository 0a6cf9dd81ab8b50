"""PNG files that say how they were made, so that they can be made again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path

from PIL import Image, PngImagePlugin
from pydantic import TypeAdapter

from velatura.errors import RecipeError, StorageError
from velatura.sampling.request import Request

KEY = "velatura"


def save_png(image: Image.Image, path: Path, request: Request, facts: Mapping[str, object]) -> None:
    """Write the image with its request and `facts` inside; no time stamps: same input, same bytes. Atomic.

    `facts["sampler"]`, where it is given, is shown to other tools too. Raises StorageError.
    """
    record = {"request": asdict(request), **facts}
    text = PngImagePlugin.PngInfo()
    text.add_text(KEY, json.dumps(record, sort_keys=True))
    text.add_text("parameters", _a1111(request, facts))
    staged = _staged(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(staged, format="PNG", pnginfo=text)
        os.replace(staged, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}.") from None
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Refuse a place that `save_png` could not write to; nothing is written. Raises RecipeError, StorageError."""
    if path.suffix.lower() != ".png":
        raise RecipeError(f"--out must end in .png, received {path}")
    try:
        if path.is_dir():
            raise RecipeError(f"--out {path} is a folder; give a file in it: {path / 'picture.png'}")
        _staged(path).exists()  # so that a name that is too long is told now
        there = _nearest_folder(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}; give another --out") from None
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "may not be written to" if there.is_dir() else "is a file"
        raise StorageError(f"cannot write {path}: {there} {why}; give another --out")


def try_place(path: Path) -> None:
    """Write an empty file where `path` would go and remove it: some folders refuse files without saying so before.

    Raises StorageError.
    """
    there = _nearest_folder(path)
    trial = there / _staged(path).name
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {there} takes no file ({error.strerror or error}); give another --out"
        ) from None


def _nearest_folder(path: Path) -> Path:
    """What is there already of the folders above a file. Raises OSError."""
    return next(folder for folder in path.absolute().parents if folder.exists())


def read_record(path: Path) -> tuple[Request, dict[str, object]]:
    """The request and the facts in a PNG that `save_png` wrote. Raises RecipeError for any other file."""
    if path.exists() and not path.is_file():  # a pipe would wait for ever
        raise RecipeError(f"{path} is no regular file; give a PNG that `velatura generate` wrote")
    try:
        with Image.open(path, formats=["PNG"]) as image:
            record = json.loads(image.info[KEY])  # what stands before the pixels: they are not decoded
        known = {field.name for field in fields(Request)}
        given = {name: value for name, value in record.pop("request").items() if name in known}
        request = TypeAdapter(Request).validate_python(given)
    except FileNotFoundError:
        raise RecipeError(f"no such file: {path}") from None
    except (
        KeyError, TypeError, ValueError, AttributeError, RecursionError, OSError, Image.DecompressionBombError
    ) as error:  # fmt: skip
        raise RecipeError(
            f"{path} holds no velatura metadata ({type(error).__name__}): only PNGs written by "
            "`velatura generate` and not edited since can be repeated"
        ) from None
    return request, record


def _staged(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _a1111(request: Request, facts: Mapping[str, object]) -> str:
    """The `parameters` text that A1111 and its kin show."""
    negative = f"\nNegative prompt: {request.negative}" if request.negative else ""
    shown = {
        "Steps": request.steps,
        "Sampler": facts.get("sampler"),
        "CFG scale": request.cfg,
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        "Distilled CFG Scale": request.guidance or None,
    }
    values = ", ".join(f"{name}: {value}" for name, value in shown.items() if value is not None)
    return f"{request.prompt}{negative}\n{values}"
