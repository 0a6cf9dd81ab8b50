"""Scanning folders: what is found, what is left aside, and what is said about it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from velatura.data.images import decode
from velatura.data.items import Item, Quarantined, check_bad_share
from velatura.data.scanning.scan import scan
from velatura.data.text.wording import text_of
from velatura.errors import DataError
from velatura.recipe.data.sources.folder import FolderData
from velatura.recipe.data.sources.table import TableData

Write = Callable[..., Path]


def items_of(base: Path, log: Any, **section: Any) -> tuple[Item, ...]:
    return scan([FolderData(folder="set", **section)], base, log.events).items


def test_items_in_order_of_name_with_captions(tmp_path: Path, write_image: Write, log: Any) -> None:
    write_image("set/b.PNG", (40, 30), seed=1, caption="second")
    write_image("set/a.jpeg", (30, 40), seed=2, caption="  first\n line ")
    write_image("set/c.Webp", seed=3)
    found = items_of(tmp_path, log, repeats=3, weight=0.5, trigger="sks", flip=0.25, caption="fallback")
    assert [item.name for item in found] == ["set/a.jpeg", "set/b.PNG", "set/c.Webp"]
    assert [text_of(item.caption, item.treatment.wording) for item in found] == [
        "sks, first line",
        "sks, second",
        "sks, fallback",
    ]
    assert [(item.width, item.height) for item in found] == [(30, 40), (40, 30), (64, 64)]
    assert {(item.treatment.repeats, item.treatment.weight, item.treatment.flip) for item in found} == {
        (3, 0.5, 0.25)
    }
    assert list(dict.fromkeys(log.kinds())) == ["PhaseStarted", "PhaseProgress", "PhaseFinished"]


def test_absolute_folders(tmp_path: Path, write_image: Write, log: Any) -> None:
    write_image("set/a.png", caption="x")
    assert len(scan([FolderData(folder=str(tmp_path / "set"))], Path("elsewhere"), log.events).items) == 1


def test_captions_by_file_name_or_missing(tmp_path: Path, write_image: Write, log: Any) -> None:
    for i in range(7):
        write_image(f"set/red_fox {i}.png", seed=i)
    assert items_of(tmp_path, log, caption_from_name=True)[0].caption.text == "red fox 0"
    assert {text_of(item.caption, item.treatment.wording) for item in items_of(tmp_path, log)} == {""}
    (text,) = log.texts
    assert "7 of 7 images" in text
    assert "set/red_fox 4.png and 2 more" in text


def test_a_wrong_caption_extension_is_remarked(tmp_path: Path, write_image: Write, log: Any) -> None:
    write_image("set/a.png").with_suffix(".caption").write_text("here I am")
    items_of(tmp_path, log)
    assert "set caption_extension" in log.texts[0]
    assert items_of(tmp_path, log, caption_extension=".caption")[0].caption.text == "here I am"


def test_odd_encodings(tmp_path: Path, write_image: Write, log: Any) -> None:
    texts = {"a": "\ufeffcafé".encode(), "b": "café “bar”".encode("cp1252"), "c": "café".encode("utf-16")}
    for number, (stem, data) in enumerate(texts.items()):
        write_image(f"set/{stem}.png", seed=number).with_suffix(".txt").write_bytes(data)
    assert [text_of(item.caption, item.treatment.wording) for item in items_of(tmp_path, log)] == [
        "café",
        "café “bar”",
        "café",
    ]
    (text,) = log.texts
    assert "1 caption in '" in text
    assert "set/b.png" in text


def test_bad_images_are_quarantined_with_reasons(tmp_path: Path, write_image: Write, log: Any) -> None:
    for i in range(6):
        write_image(f"set/ok{i}.png", seed=i, caption="x")
    (tmp_path / "set/zero.jpg").touch()
    (tmp_path / "set/text.png").write_text("not a picture")
    whole = write_image("set/cut.jpg", seed=9, caption="x").read_bytes()
    (tmp_path / "set/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "set/gone.png").symlink_to(tmp_path / "nowhere.png")
    found = scan([FolderData(folder="set", max_bad=0.5)], tmp_path, log.events)
    assert len(found.items) == 6
    reasons = {bad.name: bad.reason for bad in found.quarantined}
    assert reasons["set/zero.jpg"] == "empty file (0 bytes)"
    assert reasons["set/text.png"].startswith("not an image")
    assert reasons["set/cut.jpg"].startswith("damaged")
    assert reasons["set/gone.png"] == "a broken link, or deleted just now"
    assert sum(text.startswith("left out set/") for text in log.texts) == 4
    with pytest.raises(
        DataError, match=r"4 of 10 images in 'set' cannot be used; max_bad allows 5%(.|\n)*cut.jpg"
    ):
        items_of(tmp_path, log)


def test_all_bad_is_refused_whatever_is_allowed(tmp_path: Path, log: Any) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.png").touch()
    with pytest.raises(DataError, match="none of 1 image in 'set' can be used"):
        items_of(tmp_path, log, max_bad=1.0)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files(tmp_path: Path, write_image: Write, log: Any) -> None:
    write_image("set/a.png", caption="x")
    write_image("set/b.png", seed=1, caption="x").chmod(0)
    found = scan([FolderData(folder="set", max_bad=0.5)], tmp_path, log.events)
    assert found.quarantined[0].reason == "cannot be read: Permission denied"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_below_one_that_may_not_be_entered(tmp_path: Path, write_image: Write, log: Any) -> None:
    write_image("closed/set/a.png", caption="x")
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(
            DataError, match="closed/set cannot be read: Permission denied. Give another place"
        ):
            scan([FolderData(folder="closed/set")], tmp_path, log.events)
    finally:
        (tmp_path / "closed").chmod(0o700)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path, write_image: Write, log: Any) -> None:
    write_image("set/a.png", caption="x")
    os.mkfifo(tmp_path / "set/b.png")
    found = scan([FolderData(folder="set", max_bad=0.5)], tmp_path, log.events)
    assert found.quarantined[0].reason == "not a regular file"


def test_nothing_to_read(tmp_path: Path, write_image: Write, log: Any) -> None:
    with pytest.raises(DataError, match="does not exist"):
        items_of(tmp_path, log)
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError, match="is empty"):
        items_of(tmp_path, log)
    (tmp_path / "set/a.txt").write_text("x")
    with pytest.raises(DataError, match="holds 1 caption file but no images"):
        items_of(tmp_path, log)
    (tmp_path / "set/a.txt").rename(tmp_path / "set/a.heic")
    with pytest.raises(DataError, match=r"found 1 \.heic"):
        items_of(tmp_path, log)
    write_image("set/sub/a.png")
    with pytest.raises(DataError, match=r"1 in 1 sub-folder. Set recursive = true"):
        items_of(tmp_path, log)
    with pytest.raises(DataError, match="is a file"):
        scan([FolderData(folder="set/a.heic")], tmp_path, log.events)


def test_a_link_to_itself_is_one_bad_image(tmp_path: Path, write_image: Write, log: Any) -> None:
    write_image("set/a.png")
    (tmp_path / "set/b.png").symlink_to("b.png")
    found = scan([FolderData(folder="set")], tmp_path, log.events)
    assert [item.name for item in found.items] == ["set/a.png"]
    (bad,) = found.quarantined
    assert bad.name == "set/b.png"
    assert "symbolic links" in bad.reason


def test_recursive_with_links_in_a_loop(tmp_path: Path, write_image: Write, log: Any) -> None:
    write_image("set/a.png", caption="x")
    write_image("set/sub/b.png", seed=1, caption="y")
    write_image("outside/c.png", seed=2, caption="z")
    (tmp_path / "set/sub/loop").symlink_to(tmp_path / "set", target_is_directory=True)
    (tmp_path / "set/linked").symlink_to(tmp_path / "outside", target_is_directory=True)
    (tmp_path / "set/linked twice").symlink_to(tmp_path / "outside", target_is_directory=True)
    found = items_of(tmp_path, log, recursive=True)
    assert [item.name for item in found] == ["set/a.png", "set/linked/c.png", "set/sub/b.png"]
    assert [text_of(item.caption, item.treatment.wording) for item in found] == ["x", "z", "y"]
    assert len(items_of(tmp_path, log)) == 1


def test_twins_orphans_hidden_and_animated_are_remarked(tmp_path: Path, write_image: Write, log: Any) -> None:
    write_image("set/a.png", caption="x")
    write_image("set/b.png", caption="x")
    write_image("set/._c.png")
    (tmp_path / "set/z.txt").write_text("whose?")
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 200)]
    frames[0].save(tmp_path / "set/d.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "set/d.txt").write_text("x")
    items_of(tmp_path, log)
    said = "\n".join(log.texts)
    assert "set/a.png = set/b.png" in said
    assert "1 caption file in 'set' has no image: z.txt" in said
    assert "1 hidden file or folder in 'set' was left out" in said
    assert "1 image is animated; only the first frame is used: set/d.gif" in said


def test_several_sources(tmp_path: Path, write_image: Write, log: Any) -> None:
    write_image("one/a.png", caption="x")
    write_image("two/a.png", caption="y")
    found = scan([FolderData(folder="one"), FolderData(folder="two", weight=2.0)], tmp_path, log.events)
    assert [(item.name, item.source, item.treatment.weight) for item in found.items] == [
        ("one/a.png", 0, 1.0),
        ("two/a.png", 1, 2.0),
    ]


def test_an_image_of_too_many_pixels_is_never_decoded(tmp_path: Path, write_image: Write, log: Any) -> None:
    """A bomb: 400 million pixels in half a megabyte. The limit is the recipe's, for images and for companions."""
    write_image("set/good.png", caption="x")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "set" / "bomb.png")
    write_image("set/large.png", (65, 64), caption="x")
    found = scan([FolderData(folder="set", max_pixels=64 * 64, max_bad=0.9)], tmp_path, log.events)
    assert [item.name for item in found.items] == ["set/good.png"]
    reasons = {bad.name: bad.reason for bad in found.quarantined}
    assert reasons["set/bomb.png"].startswith(
        "too many pixels: more than the 4,096 that max_pixels allows: Image size (400000000 pixels)"
    )
    assert reasons["set/large.png"] == "has 4,160 pixels (65x64); max_pixels allows 4,096"


def test_max_pixels_may_be_more_than_what_pillow_allows(
    tmp_path: Path, write_image: Write, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for an image that an earlier scan saw, which is not opened before it is decoded."""
    write_image("set/a.png", (64, 65), caption="x")
    section = FolderData(folder="set", max_pixels=64 * 65)
    for _ in range(2):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        found = scan([section], tmp_path, log.events, memory=tmp_path / "memory")
        (item,) = found.items
        assert decode(item.place.read()).size == (64, 65)


def test_a_caption_that_cannot_be_read(tmp_path: Path, write_image: Write, log: Any) -> None:
    """Its image is set aside, and all others are looked at."""
    for i in range(3):
        write_image(f"set/{i}.png", seed=i, caption="good")
    (tmp_path / "set/1.txt").unlink()
    (tmp_path / "set/1.txt").symlink_to("1.txt")
    found = scan([FolderData(folder="set")], tmp_path, log.events)
    assert [item.name for item in found.items] == ["set/0.png", "set/2.png"]
    (bad,) = found.quarantined
    assert bad.name == "set/1.png"
    assert bad.reason.startswith("its caption set/1.txt cannot be read: ")


def test_a_caption_that_no_encoder_takes(tmp_path: Path, write_image: Write, log: Any) -> None:
    for i in range(2):
        write_image(f"set/{i}.png", seed=i)
    (tmp_path / "set/list.json").write_text(
        '[{"image": "0.png", "prompt": "\\ud83d dog"}, {"image": "1.png", "prompt": "\\ud83d\\ude00"}]'
    )
    found = scan([TableData(file="set/list.json")], tmp_path, log.events)
    assert [item.caption.text for item in found.items] == ["\U0001f600"]
    (bad,) = found.quarantined
    assert bad.name == "set/0.png"
    assert "its caption holds half a character" in bad.reason


def test_captions_without_end(
    tmp_path: Path, write_image: Write, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 words are a caption, which the encoders cut; a gigabyte is none, and is not even read."""
    write_image("set/0.png", caption="word " * 10_000)
    write_image("set/1.png", seed=1, caption="x" * (4 * 2**20 + 1))
    write_image("set/2.png", seed=2, caption="x" * (2**20 + 1))
    found = scan([FolderData(folder="set", max_bad=0.9)], tmp_path, log.events)
    assert [len(item.caption.text.split()) for item in found.items] == [10_000]
    assert [bad.reason for bad in found.quarantined] == [
        "its caption set/1.txt has 4,194,305 bytes; allowed are 1,048,576 characters",
        "its caption has 1,048,577 characters; allowed are 1,048,576",
    ]


def test_a_mask_of_another_shape_is_named(tmp_path: Path, write_image: Write, log: Any) -> None:
    for i in range(2):
        write_image(f"set/{i}.png", (96, 96), seed=i, caption="good")
        write_image(f"masks/{i}.png", (96, 96 - 40 * i))
    found = scan([FolderData(folder="set", masks="masks")], tmp_path, log.events)
    (bad,) = found.quarantined
    assert bad.reason == "its mask image masks/1.png is 96x56 and does not fit 96x96"


def test_a_caption_that_is_no_text(tmp_path: Path, write_image: Write, log: Any) -> None:
    for i in range(3):
        write_image(f"set/{i}.png", seed=i, caption="good")
    (tmp_path / "set/1.txt").write_bytes("a dog".encode("utf-16-le"))
    found = scan([FolderData(folder="set")], tmp_path, log.events)
    assert [item.name for item in found.items] == ["set/0.png", "set/2.png"]
    (bad,) = found.quarantined
    assert bad.name == "set/1.png"
    assert "its caption set/1.txt holds zero bytes" in bad.reason


@pytest.mark.parametrize(
    ("images", "bad", "max_bad", "refused"),
    [
        (2, 1, 0.05, False),  # half of them, and only one
        (19, 1, 0.05, False),
        (19, 2, 0.05, True),
        (40, 2, 0.05, False),
        (40, 3, 0.05, True),
        (2, 1, 0.0, True),
        (1, 1, 0.05, True),
    ],
)
def test_one_bad_image_is_always_allowed(images: int, bad: int, max_bad: float, refused: bool) -> None:
    found = [Quarantined(name=f"{i}.png", reason="damaged") for i in range(bad)]
    if refused:
        with pytest.raises(DataError, match=r"cannot be used|none of 1 image in 'set' can be used"):
            check_bad_share("set", found, images, max_bad)
    else:
        check_bad_share("set", found, images, max_bad)
