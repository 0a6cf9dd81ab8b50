"""Tar shards as a source: samples, captions, companions, and what is said of the rest."""

from __future__ import annotations

import io
import json
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from velatura.data.decoded import load_companions, load_pixels
from velatura.data.items import Scan
from velatura.data.scanning import looking
from velatura.data.scanning.scan import scan
from velatura.data.views import View
from velatura.errors import DataError
from velatura.recipe.data.sources.webdataset import WebDatasetData

from ..shards import picture, write_shard


@pytest.fixture
def scanned(tmp_path: Path, log: Any) -> Any:
    def run(shards: str = "set", memory: Path | None = None, **keys: Any) -> Scan:
        section = WebDatasetData(shards=shards, **{"max_bad": 0.9, **keys})
        return scan([section], tmp_path, log.events, memory=memory)

    return run


def captions(found: Scan) -> dict[str, str]:
    return {item.name: item.caption.text for item in found.items}


def test_samples_of_several_shards(tmp_path: Path, scanned: Any, log: Any) -> None:
    write_shard(
        tmp_path / "set/0.tar",
        {
            "a.jpg": picture((60, 40), seed=1, kind="jpeg"), "a.txt": b"about a", "a.cls": b"7",
            "b.TXT": b"about b", "b.PNG": picture((30, 50), seed=2),
        },
    )  # fmt: skip
    write_shard(
        tmp_path / "set/1.tar",
        {"a.webp": picture(seed=3, kind="webp"), "sub/a.png": picture(seed=4), "sub/a.caption": b"below"},
    )
    found = scanned()
    assert captions(found) == {
        "set/0.tar/a.jpg": "about a",
        "set/0.tar/b.PNG": "about b",
        "set/1.tar/a.webp": "",
        "set/1.tar/sub/a.png": "below",
    }
    assert [(item.width, item.height) for item in found.items[:2]] == [(60, 40), (30, 50)]
    assert "members of 'set' that are not read: .cls (1)." in log.texts
    pixels = load_pixels(View(item=found.items[1], bucket=(30, 50)))
    assert pixels.shape == (3, 50, 30)


def test_captions_in_json(tmp_path: Path, scanned: Any, log: Any) -> None:
    members: dict[str, bytes] = {}
    for number, said in enumerate(({"text": "one", "blip": "first"}, {"blip": "second"}, {"blip": 3})):
        members[f"{number}.png"] = picture(seed=number)
        members[f"{number}.json"] = json.dumps(said).encode()
    write_shard(tmp_path / "set/0.tar", {**members, "0.txt": b"in a file"})
    assert list(captions(scanned()).values()) == ["in a file", "", ""]
    assert list(captions(scanned(caption_extension=".json")).values()) == ["one", "", ""]
    found = scanned(caption_extension=".json", caption_key="blip")
    assert list(captions(found).values()) == ["first", "second"]
    (bad,) = found.quarantined
    assert bad.name == "set/0.tar/2.png"
    assert "2.json" in bad.reason
    assert "holds no text, but 3" in bad.reason


def test_companions_and_the_word_of_the_image(tmp_path: Path, scanned: Any, log: Any) -> None:
    write_shard(
        tmp_path / "set/0.tar",
        {
            "a.out.png": picture((40, 30), seed=1), "a.mask.png": picture((40, 30), seed=2),
            "a.in.jpg": picture((40, 30), seed=3, kind="jpeg"),
            "b.out.png": picture((40, 30), seed=4), "b.in.jpg": picture((40, 30), seed=5, kind="jpeg"),
        },
    )  # fmt: skip
    found = scanned(image_member="out", mask_member="mask", reference_member="in")
    (item,) = found.items
    assert item.companions.keys() == {"mask", "reference"}
    assert any("no objective reads yet: reference. They are" in text for text in log.texts)
    assert load_companions(View(item=item, bucket=(40, 30)))["mask"].shape == (1, 30, 40)
    (bad,) = found.quarantined
    assert str(bad) == "set/0.tar/b.out.png: has no mask image: a member that ends in '.mask.png' or the like"


def test_what_is_not_used_is_said(tmp_path: Path, scanned: Any, log: Any) -> None:
    write_shard(
        tmp_path / "set/0.tar",
        {
            "a.png": picture(), "b.png": picture(seed=1), "b.jpg": picture(seed=1, kind="jpeg"),
            "c.txt": b"alone", "../d.png": picture(), "._e.png": b"of a Mac",
        },
    )  # fmt: skip
    found = scanned()
    assert list(captions(found)) == ["set/0.tar/a.png"]
    assert [str(bad) for bad in found.quarantined] == [
        "set/0.tar/b.png: has several images of one name: .png, .jpg"
    ]
    said = "\n".join(log.texts)
    assert "1 sample has no picture and is not used, in 'set': set/0.tar/c.txt." in said
    assert "left alone: set/0.tar/../d.png." in said


def test_members_that_are_there_twice(tmp_path: Path, scanned: Any, log: Any) -> None:
    """The last one counts, as for all that read tar files, and it is said."""
    shard = write_shard(tmp_path / "set/0.tar", {"a.png": picture(seed=0), "README": b"x"})
    with tarfile.open(shard, "a") as tar:
        member = tarfile.TarInfo("a.png")
        member.size = len(picture(seed=1))
        tar.addfile(member, io.BytesIO(picture(seed=1)))
    (item,) = scanned().items
    assert item.place.read() == picture(seed=1)
    assert "1 member is in a shard more than once, and the last one counts: set/0.tar/a.png." in log.texts
    assert "members of 'set' that are not read: no ending (1)." in log.texts


def test_of_a_cut_shard_the_whole_samples_are_used(tmp_path: Path, scanned: Any) -> None:
    members = {f"{number}.png": picture(seed=number) for number in range(4)}
    shard = write_shard(tmp_path / "set/0.tar", members)
    write_shard(tmp_path / "set/1.tar", {"x.png": picture(seed=9)})
    shard.write_bytes(shard.read_bytes()[: 2 * (512 + len(picture()) + 511) + 1000])
    found = scanned(max_bad=0.3)
    assert list(captions(found)) == ["set/0.tar/0.png", "set/0.tar/1.png", "set/1.tar/x.png"]
    (bad,) = found.quarantined
    assert (bad.name, "ends inside it" in bad.reason) == ("set/0.tar/2.png", True)
    with pytest.raises(DataError, match="1 of 4 images in 'set' cannot be used"):
        scanned(max_bad=0.0)


@pytest.mark.parametrize("members", [{}, {"a.txt": b"x"}, {"a.out.png": b"x"}])
def test_shards_without_pictures(tmp_path: Path, scanned: Any, members: dict[str, bytes]) -> None:
    write_shard(tmp_path / "set/0.tar", members)
    with pytest.raises(DataError, match=r"'set' has no pictures|cannot be used"):
        scanned()


def test_shards_are_gone_through_once(tmp_path: Path, scanned: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("velatura.checkpoints.stamps.SETTLED_AFTER", -(10**18))
    from velatura.data.sources import webdataset

    work: list[str] = []
    list_tar, probe = webdataset.list_tar, looking.probe
    monkeypatch.setattr(webdataset, "list_tar", lambda path: (work.append("list"), list_tar(path))[1])
    monkeypatch.setattr(looking, "probe", lambda *a, **k: (work.append("probe"), probe(*a, **k))[1])
    for number in range(2):
        members = {"a.png": picture(seed=number), "a.json": b'{"text": "a"}'}
        write_shard(tmp_path / f"set/{number}.tar", members)
    run = partial(scanned, "set/{0..1}.tar", tmp_path / "memory")
    first = run()
    assert sorted(work) == ["list", "list", "probe", "probe"]
    work.clear()
    assert run() == first
    assert work == []
    write_shard(tmp_path / "set/1.tar", {"a.png": picture(seed=5), "b.png": picture(seed=6)})
    assert list(captions(run())) == ["set/0.tar/a.png", "set/1.tar/a.png", "set/1.tar/b.png"]
    assert sorted(work) == ["list", "probe", "probe"]
