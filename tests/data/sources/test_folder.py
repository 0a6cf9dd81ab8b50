"""Folders with folders of companions beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from velatura.data.places import FilePlace
from velatura.data.scanning.scan import scan
from velatura.data.sources.folder import read_folder
from velatura.data.sources.record import Reading
from velatura.errors import DataError
from velatura.recipe.data.sources.folder import FolderData

Write = Callable[..., Path]


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., None]:
    """Empty files: a reader opens none of them."""

    def write(*names: str) -> None:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    return write


def read(base: Path, **section: Any) -> Reading:
    return read_folder(FolderData(folder="set", **section), base)


def companions(base: Path, reading: Reading, role: Any) -> dict[str, str]:
    found = {}
    for record in reading.records:
        place = record.companions[role]
        assert isinstance(place, FilePlace)
        found[record.name] = Path(place.path).relative_to(base).as_posix()
    return found


def test_pairs_by_name_and_what_has_no_partner(tmp_path: Path, files: Callable[..., None]) -> None:
    files("set/1.png", "set/10.png", "set/2.png", "before/1.jpg", "before/2.png", "before/3.png")
    reading = read(tmp_path, references="before")
    assert companions(tmp_path, reading, "reference") == {
        "set/1.png": "before/1.jpg",
        "set/2.png": "before/2.png",
    }
    assert reading.unusable == (("set/10.png", "has no reference image of the same name"),)
    assert "1 reference image belongs to no image in 'set': 3.png." in reading.notices


def test_every_missing_role_is_named(tmp_path: Path, files: Callable[..., None]) -> None:
    files("set/a.png", "masks/b.png", "depth/b.npy")
    ((name, reason),) = read(tmp_path, masks="masks", depths="depth").unusable
    assert name == "set/a.png"
    assert reason == "has no mask image of the same name and has no depth image of the same name"


def test_images_that_share_a_caption_are_told(tmp_path: Path, files: Callable[..., None]) -> None:
    files("set/a.png", "set/a.jpg", "set/a.txt", "set/b.png", "set/b.txt")
    reading = read(tmp_path)
    assert reading.notices == ("1 caption file in 'set' is that of several images: a.txt.",)
    assert len(list(reading.records)) == 3


def test_companions_beside_their_images_by_a_pattern(tmp_path: Path, files: Callable[..., None]) -> None:
    files("set/dog.jpg", "set/dog-masklabel.png", "set/cat.png", "set/cat-masklabel.png")
    reading = read(tmp_path, masks="set/*-masklabel")
    assert companions(tmp_path, reading, "mask") == {
        "set/cat.png": "set/cat-masklabel.png",
        "set/dog.jpg": "set/dog-masklabel.png",
    }
    assert reading.notices == ()


def test_a_folder_of_companions_inside_the_source(tmp_path: Path, files: Callable[..., None]) -> None:
    files("set/x/a.png", "set/masks/x/a.png")
    reading = read(tmp_path, recursive=True, masks="set/masks")
    assert companions(tmp_path, reading, "mask") == {"set/x/a.png": "set/masks/x/a.png"}


def test_sub_folders_of_companions_count_where_those_of_images_do(
    tmp_path: Path, files: Callable[..., None]
) -> None:
    files("set/a.png", "masks/a.png", "masks/sub/a.png")
    assert read(tmp_path, masks="masks").notices == ()


def test_companions_that_cannot_be_told_apart_are_refused(tmp_path: Path, files: Callable[..., None]) -> None:
    files("set/a.png", "masks/a.png")
    with pytest.raises(DataError, match="all images in 'set' are companions: name another folder"):
        read(tmp_path, references="set")
    with pytest.raises(DataError, match="no file in 'masks' fits '\\*_mask'"):
        read(tmp_path, masks="masks/*_mask")
    with pytest.raises(DataError, match="'nowhere' does not exist"):
        read(tmp_path, masks="nowhere")


def test_a_scan_holds_the_right_pixels(tmp_path: Path, write_image: Write, log: Any) -> None:
    for number, name in enumerate(("1", "10", "2")):
        write_image(f"set/{name}.png", seed=number, caption="x")
        write_image(f"before/{name}.png", seed=100 + number)
    found = scan([FolderData(folder="set", references="before")], tmp_path, log.events)
    assert len({item.companions["reference"].content for item in found.items}) == 3
    for item in found.items:
        assert Path(item.companions["reference"].place.key).name == Path(item.name).name
