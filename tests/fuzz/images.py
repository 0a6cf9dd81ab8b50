"""Pictures, arrays of numbers, and the settings inside a PNG."""

from __future__ import annotations

import io
import json
import tempfile
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from velatura.data.companions import load_companion
from velatura.data.images import FORMATS, Look
from velatura.data.items import Companion, Item, Treatment
from velatura.data.places import FilePlace
from velatura.data.scanning.probe import BadImageError, probe
from velatura.data.text.captions import Caption
from velatura.errors import VelaturaError
from velatura.sampling.history import History, UsedLora, history_in
from velatura.sampling.png import read_record, save_png
from velatura.sampling.request import Request, check
from velatura.sampling.start import read_start

from .checkpoints import put
from .mutate import NUMBERS, of_bytes, of_json
from .target import Target

LOOK = Look(bucket=(16, 16))
MAX_PIXELS = 2**24
_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"


@lru_cache
def pictures() -> tuple[bytes, ...]:
    """Small pictures of every format and mode that is read."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 20, 4), dtype=np.uint8)
    found = []
    for kind in FORMATS:
        for mode in ("RGB", "L", "RGBA", "P", "1", "CMYK", "I;16", "F"):
            image = Image.fromarray(noise)
            image = (
                Image.fromarray(noise.view(np.uint16)[..., 0].copy())
                if mode == "I;16"
                else image.convert("RGB").convert(mode)
            )
            buffer = io.BytesIO()
            with suppress(OSError, ValueError, KeyError):
                options: dict[str, Any] = (
                    {"exif": _EXIF} if mode == "RGB" and kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}
                )
                image.save(buffer, kind, **options)
                found.append(buffer.getvalue())
    frames = [Image.fromarray(noise[..., :3]), Image.fromarray(255 - noise[..., :3])]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        found.append(buffer.getvalue())
    return tuple(found)


def make_picture(chance: Random) -> bytes:
    """Bytes changed anywhere; of a PNG at times its chunks, their checksums right."""
    data = chance.choice(pictures())
    if data.startswith(b"\x89PNG") and chance.random() < 0.6:
        return with_chunks(chance, data)
    words = (
        b"IHDR",
        b"IDAT",
        b"iCCP",
        b"zTXt",
        b"eXIf",
        b"\xff\xd8",
        b"\xff\xe1",
        b"\xff\xc0",
        b"VP8L",
        b"ANIM",
        b"EXIF",
        b"II*\0",
    )
    return of_bytes(words)(chance, data)


def with_chunks(chance: Random, data: bytes) -> bytes:
    """A PNG with a chunk changed, doubled, moved, added or left out."""
    chunks = split(data)
    at = chance.randrange(len(chunks))
    kind, content = chunks[at]
    match chance.randrange(6):
        case 0:
            chunks.insert(chance.randrange(len(chunks) + 1), (kind, content))
        case 1:
            del chunks[at]
        case 2:
            chunks.append(chunks.pop(at))
        case 3:
            text = zlib.compress(bytes(chance.choice((10, 2**16, 2**24))))
            chunks.insert(at, (chance.choice((b"zTXt", b"iCCP")), b"velatura\0\0" + text))
        case _:
            chunks[at] = (kind, of_bytes()(chance, content))
    return joined(chunks)


def split(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG: type and content."""
    found, place = [], 8
    while place < len(data):
        size = int.from_bytes(data[place : place + 4])
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    return found


def joined(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks."""
    parts = [len(c).to_bytes(4) + kind + c + zlib.crc32(kind + c).to_bytes(4) for kind, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def read_picture(data: bytes, folder: Path) -> None:
    """Probe, as the scan and as `--image` do; decode what passes."""
    probe(data, thorough=False, max_pixels=MAX_PIXELS)
    found = probe(data, thorough=True, max_pixels=MAX_PIXELS)
    with suppress(VelaturaError):
        read_start(put(data, folder, "x.png")).decoded()
    path = put(data, folder, "mask.png")
    for role in ("mask", "depth", "normals", "control"):
        with suppress(VelaturaError):
            load_companion(_item(path, found.content, role), role, LOOK)


def _item(path: Path, content: str, role: Any) -> Item:
    place = FilePlace(str(path))
    companion = Companion(place=place, content=content, width=20, height=12)
    return Item(name="x", place=place, caption=Caption(), width=20, height=12, content=content, source=0,
                treatment=Treatment(), companions={role: companion})  # fmt: skip


@lru_cache
def arrays() -> tuple[bytes, ...]:
    """NPY files of several types, and one of Python objects."""
    found = []
    for array in (np.ones((4, 6), np.float32), np.ones((4, 6, 3), np.uint8), np.ones((3, 4, 6), ">f8"), np.array([None, {}]),
                  np.array(3.0), np.ones((4, 6), np.complex64), np.asfortranarray(np.ones((4, 6), np.int16))):  # fmt: skip
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        found.append(buffer.getvalue())
    return tuple(found)


def make_array(chance: Random) -> bytes:
    """Mostly another header, at times other bytes."""
    data = chance.choice(arrays())
    if chance.random() < 0.3:
        return of_bytes()(chance, data)
    shape = tuple(
        chance.choice((0, 1, 3, 4, 6, 2**20, 2**31, 2**40, *NUMBERS)) for _ in range(chance.randrange(5))
    )
    kind = chance.choice(
        ("<f4", "|u1", ">f8", "|O", "<c8", "<U9", "<M8[s]", "V3", "|b1", "<f2", "<f16", "|S0")
    )
    header = repr({"descr": kind, "fortran_order": chance.random() < 0.2, "shape": shape})
    header = chance.choice(
        (header, header, header.replace("}", ", 'x': " + "(" * 90 + "}"), header.replace("descr", "descr"))
    )
    raw = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\0" + len(raw).to_bytes(2, "little") + raw + data[128:]


@lru_cache
def made_by_us() -> bytes:
    """A picture as `velatura generate` saves it."""
    history = History(velatura="1", model="pocket/flux", parts={"denoiser": "x"}, sampler="euler", precision="fp32", weights="full",
                      device="cpu", loras=(UsedLora(file="a", weight=1.0, hash="h"),))  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.png"
        save_png(
            Image.new("RGB", (8, 8)),
            path,
            Request(prompt="a cube", width=64, height=64, steps=4),
            history.facts(),
        )
        return path.read_bytes()


def make_settings(chance: Random) -> bytes:
    """Other settings in a sound PNG, or a PNG that is not."""
    data = made_by_us()
    if chance.random() < 0.2:
        return with_chunks(chance, data)
    chunks = split(data)
    at = next(
        i for i, (kind, text) in enumerate(chunks) if kind == b"tEXt" and text.startswith(b"velatura\0")
    )
    text = of_json(("prompt", "seed", "steps", "request", "loras", "weight"))(chance, chunks[at][1][9:])
    kind, content = chance.choice(
        ((b"tEXt", text), (b"zTXt", b"\0" + zlib.compress(text)), (b"iTXt", b"\0\0\0\0" + text))
    )
    chunks[at] = (kind, b"velatura\0" + content)
    if chance.random() < 0.2:
        chunks.append(chunks.pop(at))
    return joined(chunks)


def read_settings(data: bytes, folder: Path) -> None:
    """What `generate --like` does before it loads a model."""
    path = put(data, folder, "x.png")
    request, facts = read_record(path)
    check(request, 16)
    history_in(facts, path, request.batch)
    json.dumps(facts)


TARGETS = (
    Target(name="images", sound=pictures, make=make_picture, read=read_picture, refusals=(BadImageError,)),
    Target(
        name="npy", sound=lambda: arrays()[:2], make=make_array, read=read_picture, refusals=(BadImageError,)
    ),
    Target(name="png settings", sound=lambda: (made_by_us(),), make=make_settings, read=read_settings),
)
