"""A JSON manifest of EveryDream2: a list of images, each with what is said about it."""

from __future__ import annotations

import json
from pathlib import Path

from velatura.data.sources.everydream2_config import ImageConfig, from_table, from_text
from velatura.data.sources.everydream2_tree import Described, Findings
from velatura.data.sources.lookup import Lookup, UnusableError
from velatura.data.sources.plain_yaml import described, read_yaml
from velatura.data.text.captions import Origin, decode_text
from velatura.errors import DataError

_CAPTION_FILES = (".txt", ".caption", ".yaml", ".yml")


def read_manifest(path: Path, name: str, lookup: Lookup) -> Findings:
    """The images of a manifest, in its order; one image may be in it several times, with other captions.

    Raises DataError when the file is no list of tables. An entry that cannot be used is unusable.
    """
    found = Findings()
    for number, entry in enumerate(_entries(path, name), 1):
        try:
            found.images.append(_image(entry, f"entry {number} of {name}", lookup, found))
        except UnusableError as error:
            found.unusable.append((f"entry {number} of {name}", str(error)))
    return found


def _entries(path: Path, name: str) -> list[object]:
    try:
        text, _ = decode_text(path.read_bytes())
        document = json.loads(text)
    except OSError as error:
        raise DataError(f"manifest '{name}' cannot be read: {error.strerror or error}.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"manifest '{name}' is not JSON: line {error.lineno}: {error.msg}.") from None
    except ValueError as error:
        raise DataError(f"manifest '{name}' {error}.") from None
    except RecursionError:
        raise DataError(f"manifest '{name}' is nested too deeply; it must be a list of tables.") from None
    if not isinstance(document, list):
        raise DataError(f"manifest '{name}' holds {described(document)}; it must be a list of tables.")
    return document


def _image(entry: object, where: str, lookup: Lookup, found: Findings) -> Described:
    if not isinstance(entry, dict):
        raise UnusableError(f"received {described(entry)}; allowed is a table with the key image")
    said = dict(entry)
    image = said.pop("image", None)
    if not isinstance(image, str) or not image:
        raise UnusableError(f"image: received {described(image)}; allowed is a path")
    file = lookup.find(image)
    caption, below = said.get("caption"), ImageConfig()
    origin: Origin = "table"
    if isinstance(caption, str) and caption.lower().endswith(_CAPTION_FILES) and "\n" not in caption:
        del said["caption"]
        below, origin = _caption_file(caption, lookup, found)
    config, unknown = from_table(said)
    found.remark_unknown(unknown, where)
    return Described(name=file.name, place=file.place, config=config.over(below), origin=origin)


def _caption_file(text: str, lookup: Lookup, found: Findings) -> tuple[ImageConfig, Origin]:
    """What the file says that a caption names."""
    file = lookup.find(text)
    try:
        content, origin = decode_text(file.place.read())
    except OSError as error:
        raise UnusableError(f"caption '{text}' cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UnusableError(f"caption '{text}' {error}") from None
    if not text.lower().endswith((".yaml", ".yml")):
        return from_text(content), origin
    try:
        config, unknown = from_table(read_yaml(content, file.name))
    except UnusableError as error:
        raise UnusableError(f"{file.name}: {error}") from None
    found.remark_unknown(unknown, file.name)
    return config, origin
