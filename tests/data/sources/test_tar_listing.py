"""What the headers of a tar shard tell, also of one that is cut off, hostile or compressed."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from velatura.data.sources.tar_listing import TarListing, list_tar
from velatura.errors import DataError

from ..shards import write_shard


def listed(path: Path) -> TarListing:
    return list_tar(str(path))


def test_members_lie_where_it_says(tmp_path: Path) -> None:
    long = "sub/" + "x" * 150 + ".jpg"  # beyond the 100 characters of a plain header
    members = {"./a.jpg": b"picture", "a.txt": "日本".encode(), long: bytes(1000), "empty.txt": b""}
    shard = write_shard(tmp_path / "x.tar", members)
    found = listed(shard)
    assert [name for name, _, _ in found.members] == ["a.jpg", "a.txt", long, "empty.txt"]
    data = shard.read_bytes()
    assert [data[at : at + size] for _, at, size in found.members] == list(members.values())
    assert (found.refused, found.damage) == ([], {})


def test_links_devices_and_names_that_lead_out(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in {
            "link.jpg": tarfile.SYMTYPE, "hard.jpg": tarfile.LNKTYPE, "device.jpg": tarfile.CHRTYPE,
            "pipe.jpg": tarfile.FIFOTYPE, "/etc/a.jpg": tarfile.REGTYPE, "../b.jpg": tarfile.REGTYPE,
            "c/../../d.jpg": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "good.jpg": tarfile.REGTYPE,
        }.items():  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    found = listed(path)
    assert [name for name, _, _ in found.members] == ["good.jpg"]
    assert found.refused == [
        "link.jpg", "hard.jpg", "device.jpg", "pipe.jpg", "/etc/a.jpg", "../b.jpg", "c/../../d.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("end", "whole", "damage"),
    [
        (512 * 4 + 100, ["a"], "no end mark after"),  # inside a header
        (512 * 4, ["a"], "no end mark after"),  # between members
        (512 * 5 + 1000, ["a"], "ends inside it"),  # inside a member
        (512 * 3 + 500, ["a"], "cut off"),  # all of a, and not all of its last block: no end mark either
        (512 * 2, [], "ends inside it"),
    ],
)
def test_a_shard_that_was_cut_off(tmp_path: Path, end: int, whole: list[str], damage: str) -> None:
    members = {"a": bytes(512 * 2 + 400), "b": bytes(2000), "c": b"c"}  # 4 blocks, 5 blocks, 2 blocks
    path = write_shard(tmp_path / "x.tar", members)
    path.write_bytes(path.read_bytes()[:end])
    found = listed(path)
    assert [name for name, _, _ in found.members] == whole
    assert found.damage
    assert damage in next(iter(found.damage.values()))


def test_a_header_that_is_overwritten(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "x.tar", {"a": b"a", "b": b"b", "c": b"c"})
    data = bytearray(path.read_bytes())
    data[1024:1100] = b"\xff" * 76
    path.write_bytes(data)
    found = listed(path)
    assert [name for name, _, _ in found.members] == ["a"]
    assert "damaged" in found.damage[""]


def header(kind: bytes, size: int) -> bytes:
    """A header of a size that fits no octal digits, with its right checksum."""
    member = tarfile.TarInfo("x.jpg")
    member.type = kind
    data = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    data[124:136] = (size % 2**96 | 2**95).to_bytes(12, "big")  # the first bit: this is a binary number
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


@pytest.mark.parametrize("size", [-512, -1024, 2**40, 2**62, 2**70])
@pytest.mark.parametrize(
    "kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME]
)
def test_a_size_that_cannot_be(tmp_path: Path, kind: bytes, size: int) -> None:
    path = write_shard(tmp_path / "x.tar", {"a": b"a", "b": b"b"})
    data = path.read_bytes()
    path.write_bytes(data[:1024] + header(kind, size) + data[1024:])
    found = listed(path)
    assert [name for name, _, _ in found.members] == ["a"]
    assert len(found.damage) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"size": "-512"},
        {"size": str(2**80)},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
        {"GNU.sparse.map": "x"},
        {"GNU.sparse.realsize": "many"},
    ],
)
def test_extended_fields_that_cannot_be(tmp_path: Path, fields: dict[str, str]) -> None:
    path = tmp_path / "x.tar"
    write_shard(path, {"a": b"a"})
    member = tarfile.TarInfo("b")
    member.pax_headers = fields
    path.write_bytes(path.read_bytes()[:1024] + member.tobuf(tarfile.PAX_FORMAT) + bytes(2048))
    found = listed(path)
    assert [name for name, _, _ in found.members] == ["a"]
    assert len(found.damage) == 1


@pytest.mark.parametrize("data", [b"", b"no tar file at all" * 100])
def test_what_is_no_tar_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    found = listed(tmp_path / "x.tar")
    assert found.members == []
    assert "cannot be read as a tar file" in found.damage[""]


def test_a_compressed_shard_is_refused(tmp_path: Path) -> None:
    """By what is in it, whatever it is called."""
    shard = write_shard(tmp_path / "x.tar", {"a.jpg": b"a"})
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    with pytest.raises(DataError, match=r"x\.tar' is compressed with gzip.*\.tar.*gunzip x\.tar"):
        list_tar(str(shard))


def test_sparse_members_are_left_alone(tmp_path: Path) -> None:
    """Their bytes do not lie in the shard as they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("a.jpg")
        member.type = tarfile.GNUTYPE_SPARSE
        tar.addfile(member)
    (tmp_path / "x.tar").write_bytes(buffer.getvalue())
    found = listed(tmp_path / "x.tar")
    assert (found.members, found.refused) == ([], ["a.jpg"])
