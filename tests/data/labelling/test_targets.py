"""Which pictures are looked at, and where captions and masks go: where the folder source finds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from velatura.data.labelling.targets import Targets, caption_targets, folders_of, mask_targets
from velatura.data.sources.folder import read_folder
from velatura.errors import DataError
from velatura.recipe.data.sources.folder import FolderData
from velatura.recipe.data.sources.sd_scripts import SdScriptsData
from velatura.recipe.data.sources.table import TableData


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., None]:
    def write(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    return write


def todo(found: Targets, base: Path) -> dict[str, str]:
    return {target.name: target.file.relative_to(base).as_posix() for target in found.todo}


def test_captions_beside_pictures(tmp_path: Path, files: Any) -> None:
    files("set/a.png", "set/b.jpg", "set/b.txt", "set/sub/c.png", "set/a.png.bak")
    section = FolderData(folder="set", recursive=True)
    found = caption_targets([section], tmp_path, overwrite=False)
    assert todo(found, tmp_path) == {"set/a.png": "set/a.txt", "set/sub/c.png": "set/sub/c.txt"}
    assert found.there == 1
    again = caption_targets([section], tmp_path, overwrite=True)
    assert todo(again, tmp_path)["set/b.jpg"] == "set/b.txt"
    assert again.there == 0


def test_the_file_that_counts_is_replaced(tmp_path: Path, files: Any) -> None:
    files("set/a.png", "set/a.txt", "set/b.png")
    section = FolderData(folder="set", caption_extension=[".caption", ".txt"])
    found = caption_targets([section], tmp_path, overwrite=True)
    assert todo(found, tmp_path) == {"set/a.png": "set/a.txt", "set/b.png": "set/b.caption"}


def test_two_pictures_of_one_name(tmp_path: Path, files: Any) -> None:
    files("set/a.jpg", "set/a.png")
    found = caption_targets([FolderData(folder="set")] * 2, tmp_path, overwrite=False)
    assert todo(found, tmp_path) == {"set/a.jpg": "set/a.txt"}
    assert ("set/a.png", "would have the same file as set/a.jpg") in found.skipped


@pytest.mark.parametrize(
    ("masks", "out", "file"),
    [
        (None, None, "set-masks/sub/a.png"),
        (None, "other", "other/sub/a.png"),
        ("m", None, "m/sub/a.png"),
        ("set/*_mask", None, "set/sub/a_mask.png"),
        ("set/*.mask", None, "set/sub/a.mask.png"),
        ("m/*-m.png", None, "m/sub/a-m.png"),
        ("set/masks", None, "set/masks/sub/a.png"),
    ],
)
def test_masks_go_where_they_are_looked_for(
    tmp_path: Path, files: Any, masks: str | None, out: str | None, file: str
) -> None:
    files("set/sub/a.jpg")
    section = FolderData(folder="set", recursive=True, masks=masks)
    found = mask_targets([section], tmp_path, overwrite=False, out=out)
    assert todo(found, tmp_path) == {"set/sub/a.jpg": file}
    where = masks or out or "set-masks"
    assert found.unnamed == ({} if masks else {"set": where})
    files(file)
    again = mask_targets([section], tmp_path, overwrite=False, out=out)
    assert (todo(again, tmp_path), again.there) == ({}, 1)
    assert todo(mask_targets([section], tmp_path, overwrite=True, out=out), tmp_path) == {
        "set/sub/a.jpg": file
    }
    (record,) = read_folder(section.model_copy(update={"masks": where}), tmp_path).records
    assert record.companions["mask"].key == str(tmp_path / file)


def test_masks_that_are_no_png(tmp_path: Path, files: Any) -> None:
    files("set/a.png", "m/a.jpg")
    section = FolderData(folder="set", masks="m")
    assert mask_targets([section], tmp_path, overwrite=False).there == 1
    ((name, why),) = mask_targets([section], tmp_path, overwrite=True).skipped
    assert (name, "its mask is no PNG" in why) == ("set/a.png", True)
    with pytest.raises(DataError, match="leave out the extension"):
        mask_targets([FolderData(folder="set", masks="m/*-m.jpg")], tmp_path, overwrite=False)


def test_companions_are_no_pictures(tmp_path: Path, files: Any) -> None:
    files("set/a.png", "set/a_depth.png", "set/masks/a.png")
    section = FolderData(
        folder="set", recursive=True, masks="set/masks", depths="set/*_depth", controls="gone"
    )
    assert list(todo(caption_targets([section], tmp_path, overwrite=False), tmp_path)) == ["set/a.png"]
    with pytest.raises(DataError, match="are companions"):
        caption_targets([section.model_copy(update={"masks": "set"})], tmp_path, overwrite=False)


def test_the_folders_of_a_recipe(tmp_path: Path, files: Any) -> None:
    files("train/10_dog/a.png")
    (section,) = folders_of([SdScriptsData(train_folder="train")], tmp_path)
    assert todo(caption_targets([section], tmp_path, overwrite=False), tmp_path) == {
        "train/10_dog/a.png": "train/10_dog/a.caption"
    }
    with pytest.raises(DataError, match='kind = "table" have no files of their own'):
        folders_of([TableData(file="x.csv")], tmp_path)
