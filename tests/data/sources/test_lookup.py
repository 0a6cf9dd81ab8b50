"""Files that rows name: found in their folders, and never outside of them unnoticed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from velatura.data.sources.lookup import Lookup, UnusableError
from velatura.errors import DataError


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in ("one/a.png", "two/a.png", "two/sub/b.png", "secret.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def test_the_first_folder_that_has_the_file_counts(base: Path) -> None:
    lookup = Lookup(["one", "two/"], base, outside=False)
    assert lookup.find("a.png").place.read() == b"one/a.png"
    found = lookup.find("sub/b.png")
    assert (found.place.read(), found.name) == (b"two/sub/b.png", "two/sub/b.png")
    with pytest.raises(UnusableError, match="no file 'c.png' in 'one' and 'two'"):
        lookup.find("c.png")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("../secret.png", "contains '..'; outside = true allows"),
        ("sub/../../secret.png", "contains '..'"),
        ("..\\secret.png", "contains '..'"),
        ("/etc/hostname", "is an absolute path"),
        ("C:\\x.png", "is an absolute path"),
        ("C:x.png", "is an absolute path"),
        ("~/x.png", "is an absolute path"),
        ("https://host/x.png", "only files are read"),
        ("a\0b.png", "only files are read"),
        ("sub/\ud800.png", "only files are read"),
        ("\ud800/b.png", "only files are read"),
        ("link.png", "is a link that leads out of the folder"),
        ("linked/secret.png", "is a link that leads out of the folder"),
        ("x" * 5000, "no file"),
    ],
)
def test_what_is_refused(base: Path, text: str, why: str) -> None:
    (base / "one/link.png").symlink_to(base / "secret.png")
    (base / "one/linked").symlink_to(base, target_is_directory=True)
    with pytest.raises(UnusableError, match=why) as caught:
        Lookup(["one"], base, outside=False).find(text)
    assert len(str(caught.value)) < 400


def test_a_folder_that_may_not_be_looked_into(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are not told to be missing; without the right to it, even a look at one of them is refused."""
    closed = str(base / "one/closed/x.png")

    def refused(path: str) -> os.stat_result:
        if path == closed:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return Path(path).stat(follow_symlinks=False)

    monkeypatch.setattr(os, "lstat", refused)
    with pytest.raises(UnusableError, match=r"one/closed/x.png' cannot be read: Permission denied"):
        Lookup(["one"], base, outside=False).find("closed/x.png")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.sampled_from(["..", ".", "one", "two", "sub", "a.png", "secret.png", "\\", "/"]), max_size=6)
)
def test_no_text_reaches_a_file_outside(base: Path, parts: list[str]) -> None:
    lookup = Lookup(["two"], base, outside=False)
    try:
        place = lookup.find("/".join(parts)).place
    except UnusableError:
        return
    assert Path(place.path).resolve().is_relative_to(base / "two")


def test_outside_where_it_is_allowed(base: Path) -> None:
    (base / "one/link.png").symlink_to(base / "secret.png")
    lookup = Lookup(["one"], base, outside=True)
    for text in ("../secret.png", str(base / "secret.png"), "link.png"):
        assert lookup.find(text).place.read() == b"secret.png"
    assert lookup.find(str(base / "secret.png")).name == str(base / "secret.png")


def test_links_within_the_folder_are_fine(base: Path) -> None:
    (base / "two/link.png").symlink_to("sub/b.png")
    (base / "all").symlink_to(base / "two", target_is_directory=True)
    assert Lookup(["two"], base, outside=False).find("link.png").place.read() == b"two/sub/b.png"
    assert Lookup(["all"], base, outside=False).find("sub/b.png").place.read() == b"two/sub/b.png"


def test_a_folder_that_is_not_there(base: Path) -> None:
    with pytest.raises(DataError, match="folder 'gone' does not exist"):
        Lookup(["one", "gone"], base, outside=False)
