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
    """Write the image with its request and `facts` inside; no time stamps: same input, same bytes. Atomic."""
    record = {"request": asdict(request), **facts}
    text = PngImagePlugin.PngInfo()
    text.add_text(KEY, json.dumps(record, sort_keys=True))
    text.add_text("parameters", _a1111(request))
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(staged, format="PNG", pnginfo=text)
        os.replace(staged, path)
    except OSError as error:
        with suppress(OSError):
            staged.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from None


def read_record(path: Path) -> tuple[Request, dict[str, object]]:
    """The request and the facts in a PNG that `save_png` wrote. Raises RecipeError for any other file."""
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {})
        record = json.loads(text[KEY])
        known = {field.name for field in fields(Request)}
        given = {name: value for name, value in record.pop("request").items() if name in known}
        request = TypeAdapter(Request).validate_python(given)
    except FileNotFoundError:
        raise RecipeError(f"no such file: {path}") from None
    except (KeyError, TypeError, ValueError, AttributeError, OSError, Image.DecompressionBombError) as error:
        raise RecipeError(
            f"{path} holds no velatura metadata ({type(error).__name__}): only PNGs written by "
            "`velatura generate` and not edited since can be repeated"
        ) from None
    return request, record


def _a1111(request: Request) -> str:
    """The `parameters` text that A1111 and its kin show."""
    negative = f"\nNegative prompt: {request.negative}" if request.negative else ""
    return (
        f"{request.prompt}{negative}\nSteps: {request.steps}, Sampler: Euler, CFG scale: {request.cfg}, "
        f"Seed: {request.seed}, Size: {request.width}x{request.height}, Distilled CFG Scale: {request.guidance}"
    )
