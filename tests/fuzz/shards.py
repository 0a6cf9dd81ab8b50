"""Tar shards whose headers lie."""

from __future__ import annotations

import tarfile
from pathlib import Path
from random import Random

from velatura.data.scanning.listings import Listings
from velatura.data.sources.webdataset import read_webdataset
from velatura.recipe.data.sources.webdataset import WebDatasetData

from .checkpoints import put
from .mutate import NUMBERS, TEXTS, of_bytes
from .tables import check_inside
from .target import Target

TAR_NAMES = (
    "a.jpg", "a.txt", "a.json", "b.png", "../x.png", "/etc/x.png", "C:\\x.png", "x/../../y.png", ".hidden.png", "noending", "d/",
    "é.png", "a" * 300 + ".png", "c.seg.png", "a..png", "", ".", "..", "\\\\h\\x.png", "x\n.png", "a.JPG",
)  # fmt: skip
_KINDS = (tarfile.REGTYPE,) * 8 + (
    tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE,
    tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, b"Z",
)  # fmt: skip


def make_tar(chance: Random) -> bytes:
    """Members of all kinds whose headers tell lies, with right checksums; at times cut off, or other bytes."""
    blocks = b"".join(_member(chance) for _ in range(chance.choice((1, 2, 3, 5))))
    data = blocks + bytes(1024 * chance.choice((0, 1, 1, 1, 10)))
    return (
        of_bytes((b"ustar", b"GNU.sparse.map=1", b"17 path=../../x\n"))(chance, data)
        if chance.random() < 0.4
        else data
    )


def _member(chance: Random) -> bytes:
    content = chance.choice(
        (
            b"",
            b"a caption",
            b'{"prompt": "x"}',
            b"picture" * 90,
            b"30 path=" + b"x" * 21 + b"\n",
            b"9 size=-1\n",
        )
    )
    info = _header(chance.choice(TAR_NAMES), len(content))
    info.type = chance.choice(_KINDS)
    info.linkname = chance.choice(("", "a.jpg", "/etc/passwd", "../x"))
    if chance.random() < 0.2:
        info.pax_headers = {
            chance.choice(("path", "size", "GNU.sparse.major", "hdrcharset", "linkpath")): chance.choice(
                TEXTS[:40]
            ).replace("\ud800", "")
        }
    style = chance.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    try:
        raw = bytearray(info.tobuf(style, "utf-8", "surrogateescape"))
    except ValueError:  # a name too long for this style
        raw = bytearray(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
    if chance.random() < 0.3:
        size = chance.choice((*NUMBERS, len(content) + 1)) % 2**88
        raw[-388:-376] = chance.choice(
            (f"{size % 8**11:011o}\0".encode(), b"\x80" + size.to_bytes(11), b"\xff" * 12, b"        -1 \0")
        )
        block = raw[-512:]
        block[148:156] = b" " * 8
        raw[-364:-356] = f"{sum(block):06o}\0 ".encode()
    return bytes(raw) + content + bytes(-len(content) % 512)


def shard() -> bytes:
    """A sample and its caption."""
    members = (("a.jpg", b"picture"), ("a.txt", b"a caption"))
    blocks = [_header(name, len(content)).tobuf() + content.ljust(512, b"\0") for name, content in members]
    return b"".join(blocks) + bytes(1024)


def _header(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def read_tar(data: bytes, folder: Path) -> None:
    """A shard, its captions in JSON."""
    put(data, folder, "s.tar")
    section = WebDatasetData(shards="s.tar", caption_extension=[".txt", ".json"])
    check_inside(read_webdataset(section, folder, lambda path: Listings(None, path)), folder)


TARGETS = (Target(name="tar", sound=lambda: (shard(),), make=make_tar, read=read_tar),)
