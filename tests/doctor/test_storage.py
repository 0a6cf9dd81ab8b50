from __future__ import annotations

import errno
import tempfile
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from velatura.doctor import storage
from velatura.placement import machine

GIB = 2**30
Usage = namedtuple("Usage", "total used free")


def test_a_place_that_is_yet_to_be_made(tmp_path: Path) -> None:
    check = storage.place("runs", tmp_path / "a" / "b", 0, "output.folder")
    assert check.level == "ok"
    assert check.found.startswith(f"{tmp_path}/a/b, ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("free", "level"), [(20, "ok"), (19, "remark"), (0.5, "problem")])
def test_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, level: str) -> None:
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: Usage(0, 0, int(free * GIB)))
    check = storage.place("cache", tmp_path, 20 * GIB, "VELATURA_CACHE")
    assert check.level == level
    assert ("VELATURA_CACHE" in check.remedy) is (level != "ok")


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert storage.place("runs", tmp_path / "file", 0, "output.folder").level == "problem"

    def refuse(**_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    check = storage.place("runs", tmp_path, 0, "output.folder")
    assert (check.level, check.found) == ("problem", f"{tmp_path} cannot be written: Read-only file system")
    assert check.remedy.endswith("output.folder")


@pytest.mark.parametrize(
    ("total", "limit", "level", "told"),
    [
        (64, "max", "ok", "50.0 GiB of 64.0 GiB free"),
        (64, None, "ok", "50.0 GiB of 64.0 GiB free"),
        (
            64,
            str(8 * GIB),
            "remark",
            "8.0 GiB of 8.0 GiB free (the container's limit; the machine has 64.0 GiB)",
        ),
        (16, str(99 * GIB), "remark", "16.0 GiB of 16.0 GiB free"),
    ],
)
def test_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, limit: str | None, level: str, told: str
) -> None:
    monkeypatch.setattr(machine, "LIMITS", (tmp_path / "limit", tmp_path / "other"))
    if limit is not None:
        (tmp_path / "limit").write_text(limit)
    facts = SimpleNamespace(total=total * GIB, available=50 * GIB)
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: facts)
    check = storage._memory()
    assert (check.level, check.found) == (level, told)


@pytest.mark.parametrize("offline", [True, False])
def test_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: bool) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cache, hub = storage._hub()
    assert str(tmp_path / "hub") in cache.found
    assert hub.found.startswith("offline" if offline else "online")


def test_all_places_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def place(name: str, *_: Any) -> Any:
        looked.append(name)

    monkeypatch.setattr(storage, "place", place)
    list(storage.storage())
    assert looked == ["cache", "runs", "hub's cache", "temporary files"]
