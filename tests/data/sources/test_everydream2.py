"""Trees and manifests of EveryDream2, laid out as its documentation has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from velatura.data.items import Treatment
from velatura.data.scanning.index import Index
from velatura.data.scanning.listings import Listings
from velatura.data.scanning.scan import scan
from velatura.data.sources.everydream2 import read_everydream2
from velatura.data.sources.readers import expand
from velatura.data.sources.record import Reading, Record
from velatura.data.text.captions import Caption
from velatura.data.text.wording import text_of
from velatura.errors import DataError
from velatura.events import Events
from velatura.recipe.data.sources.everydream2 import EveryDream2Data

Lay = Callable[[dict[str, str]], Path]
FORGETFUL = partial(Listings, None)


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    """Write files under `tmp_path/set` by name; the reader opens no image, so those may be empty."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


def reading(base: Path, **keys: Any) -> Reading:
    return read_everydream2(EveryDream2Data(**{"root": "set", **keys}), base, FORGETFUL)


def records(base: Path, **keys: Any) -> dict[str, Record]:
    """By file name."""
    return {record.name.rsplit("/", 1)[1]: record for record in reading(base, **keys).records}


def treatment(record: Record, section: EveryDream2Data) -> Treatment:
    return replace(Treatment.of(section), **record.own)


def text(record: Record, **keys: Any) -> str:
    return text_of(record.caption, treatment(record, EveryDream2Data(root="set", **keys)).wording)


def test_captions_from_names_and_files(lay: Lay) -> None:
    """A name counts up to its first underscore; a file's first part is the main prompt, all others are tags."""
    found = records(
        lay({
            "a dog, on grass_0001.jpg": "",
            "cat.png": "", "cat.txt": "a cat ,asleep,  red sofa\n",
            "empty_x.webp": "", "empty_x.txt": "\n",
            "photo.jfif": "", "photo.caption": "a photo",
        })
    )  # fmt: skip
    assert {name: text(record) for name, record in found.items()} == {
        "a dog, on grass_0001.jpg": "a dog, on grass",
        "cat.png": "a cat, asleep, red sofa",
        "empty_x.webp": "empty",
        "photo.jfif": "a photo",
    }
    assert found["cat.png"].caption == Caption(
        text="a cat", tags=(("asleep", 1), ("red sofa", 1)), origin="file"
    )
    assert found["a dog, on grass_0001.jpg"].caption.origin == "name"


CAPTION = """
main_prompt: [a man in black, another]
rating: 1.3
max_caption_length: 60
tags:
  - tag: from below
    weight: 0.5
  - looking up
  - {tag: 2023, weight: 2}
  - no
"""


def test_yaml_captions(lay: Lay) -> None:
    found = reading(lay({"a.jpg": "", "a.yaml": CAPTION}))
    record = next(iter(found.records))
    assert record.caption.text == "a man in black"
    assert record.caption.max_length == 60
    assert record.own["rating"] == 1.3
    assert text(record) == "a man in black, 2023, looking up, no, from below", "heavy tags first, as text"
    assert any("1 image has more than one main prompt" in notice for notice in found.notices)


def test_a_caption_inside_the_key_caption(lay: Lay) -> None:
    found = records(
        lay({
            "a.jpg": "", "a.yaml": "caption: {main_prompt: a man, tags: [tall]}\nflip_p: 0.5",
            "b.jpg": "", "b.yaml": "caption: a woman, tall",
        })
    )  # fmt: skip
    assert [text(record) for record in found.values()] == ["a man, tall", "a woman, tall"]
    assert found["a.jpg"].own["flip"] == 0.5


def test_layers(lay: Lay) -> None:
    """From global.yaml of all folders above, over local files, to the files beside an image in their order."""
    found = records(
        lay({
            "global.yaml": "tags: [photo]\nflip_p: 0.1\nrating: 2\nshuffle_tags: true",
            "local.yaml": "rating: 9",
            "top_1.jpg": "",
            "in/global.yaml": "tags: [inside]\nflip_p: 0.2",
            "in/flip_p.txt": "0.3\n", "in/multiply.txt": " 2.5 ", "in/cond_dropout.txt": "0.2",
            "in/local.yml": "multiply: 3", "in/batch_id.txt": "horses\n", "in/loss_scale.txt": "0.5",
            "in/b.jpg": "", "in/b.txt": "by txt, t", "in/b.caption": "by caption, c", "in/b.yaml": "main_prompt: by yaml",
            "in/c.jpg": "", "in/c.yaml": "{multiply: 7, batch_id: cows, loss_scale: 2, cond_dropout: 0, flip_p: 0}",
            "in/deep/d.jpg": "",
        })
    )  # fmt: skip
    section = EveryDream2Data(root="set")
    uses = {
        name: (t.repeats, t.weight, t.group, t.flip, t.rating, t.wording.dropout)
        for name, record in found.items()
        for t in [treatment(record, section)]
    }
    assert uses == {
        "top_1.jpg": (1, 1, "", 0.1, 9, None),
        "b.jpg": (3, 0.5, "horses", 0.3, 2, 0.2),
        "c.jpg": (7, 2, "cows", 0, 2, 0),
        "d.jpg": (1, 1, "", 0.2, 2, None),
    }
    assert {name: text(record) for name, record in found.items()} == {
        "top_1.jpg": "top, photo",
        "b.jpg": "by yaml, c, t, inside, photo",
        "c.jpg": "c, inside, photo",
        "d.jpg": "d, inside, photo",
    }
    assert all(treatment(record, section).wording.shuffle for record in found.values())


def test_what_the_table_says_is_the_default(lay: Lay) -> None:
    section = EveryDream2Data(root="set", flip=0.5, caption_dropout=0.04, repeats=2, weight=3, keep_tags=1)
    base = lay({
        "a.jpg": "", "b.jpg": "", "b.yaml": "{flip_p: 0, cond_dropout: 0.5, multiply: 3, loss_scale: 0.5, batch_id: x}",
    })  # fmt: skip
    plain, own = (treatment(record, section) for record in read_everydream2(section, base, FORGETFUL).records)
    assert (plain.flip, plain.wording.dropout, plain.repeats, plain.weight) == (0.5, 0.04, 2, 3)
    assert (own.flip, own.wording.dropout, own.repeats, own.weight) == (0, 0.5, 6, 1.5)


def test_shuffling_is_inherited_and_can_be_switched_off(lay: Lay) -> None:
    """Only tags are shuffled: the commas of a main prompt are its own."""
    found = records(
        lay({
            "x/shuffle_tags.txt": "", "x/a, b, c_1.jpg": "", "x/one.jpg": "", "x/one.yaml": "main_prompt: 'a, b, c'",
            "y/global.yaml": "shuffle_tags: true", "y/in/a, b_1.jpg": "", "y/in/off_1.jpg": "",
            "y/in/off_1.yaml": "{main_prompt: p, tags: [a, b], shuffle_tags: false}",
        })
    )  # fmt: skip
    shuffles = {name: treatment(r, EveryDream2Data(root="set")).wording.shuffle for name, r in found.items()}
    assert shuffles == {"a, b, c_1.jpg": True, "one.jpg": False, "a, b_1.jpg": True, "off_1.jpg": False}
    assert text(found["one.jpg"]) == "a, b, c"


def test_an_image_that_is_not_to_be_used(lay: Lay) -> None:
    base = lay({"a.jpg": "", "b.jpg": "", "b.yaml": "multiply: 0"})
    found = reading(base)
    assert [record.name for record in found.records] == ["set/a.jpg"]
    assert found.notices == ("1 image has multiply 0 and is not used: set/b.jpg.",)
    (base / "set" / "multiply.txt").write_text("0")
    with pytest.raises(DataError, match="every image in 'set' has multiply 0"):
        reading(base)


def test_order_links_and_what_is_left_out(lay: Lay) -> None:
    base = lay({
        "b/2.jpg": "", "b/1.jpg": "", "a.jpg": "", ".hidden/x.jpg": "", "more.zip": "", "note.txt": "", "c/Z.JPG": "",
    })  # fmt: skip
    (base / "set/b/loop").symlink_to(base / "set")
    found = reading(base)
    assert [record.name for record in found.records] == [
        "set/a.jpg", "set/b/1.jpg", "set/b/2.jpg", "set/c/Z.JPG",
    ]  # fmt: skip
    assert [notice.split(":")[0] for notice in found.notices] == [
        "1 zip file in 'set' is left packed, and images in it are not used",
        "1 caption file in 'set' has no image",
        "1 hidden file or folder in 'set' was left out.",
    ]


def test_unknown_keys_are_told(lay: Lay) -> None:
    found = reading(lay({"a.jpg": "", "a.yaml": "ratng: 2", "local.yaml": "caption: {mood: sad}"}))
    assert found.notices == (
        "the key 'mood' is not known and was not read, in 1 file: set/local.yaml.",
        "the key 'ratng' is not known and was not read, in 1 file: set/a.yaml.",
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("multiply.txt", "many", "set/multiply.txt: multiply: received 'many'; allowed is a number, at least 0"),
        ("multiply.txt", "-1", "'-1'"),
        ("multiply.txt", "nan", "'nan'"),
        ("multiply.txt", "", "set/multiply.txt: is empty"),
        ("flip_p.txt", "1.5", "at least 0, at most 1"),
        ("loss_scale.txt", "-1", "more than 0"),
        ("global.yaml", "tags: a, b", "set/global.yaml: tags: received 'a, b'; allowed is a list of tags"),
        ("global.yml", "just text", "received 'just text'; allowed is a table of main_prompt, "),
        ("local.yml", "shuffle_tags: perhaps", "'perhaps'; allowed: true or false"),
        ("local.yaml", "rating: [1]", "rating: received a list; allowed is a number"),
        ("local.yaml", "tags: [{tag: x, wieght: 1}]", "allowed are tag and weight"),
        ("local.yaml", "max_caption_length: 0.5", "max_caption_length: received '0.5'"),
        ("local.yaml", "rating: 1\nrating: 2", "line 2: the key 'rating' is there twice"),
        ("local.yaml", "rating: 1\n bad: [", "set/local.yaml: is not YAML in line 2"),
    ],
)  # fmt: skip
def test_a_wrong_file_of_a_folder_stops_the_scan(lay: Lay, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        reading(lay({"a.jpg": "", name: content}))
    assert message in str(error.value)


def test_a_wrong_file_of_an_image_sets_it_aside(lay: Lay) -> None:
    found = reading(lay({"a.jpg": "", "a.yaml": "rating: high", "b.jpg": "", "b.yaml": ""}))
    assert [record.name for record in found.records] == ["set/b.jpg"]
    assert found.unusable == (
        ("set/a.jpg", "its file set/a.yaml: rating: received 'high'; allowed is a number, at least 0"),
    )


def test_yaml_that_would_run_code_is_refused(lay: Lay, tmp_path: Path) -> None:
    evil = f"main_prompt: ok\ntags:\n  - !!python/object/apply:os.system ['touch {tmp_path}/done']"
    with pytest.raises(
        DataError, match=r"set/a.yaml, line 3: the tag '!!python/object/apply:os.system' is refused"
    ):
        reading(lay({"a.jpg": "", "a.yaml": evil}))
    assert not (tmp_path / "done").exists()


def test_missing_and_empty(lay: Lay) -> None:
    base = lay({"note.md": "", "more.zip": ""})
    with pytest.raises(DataError, match=r"hold no images that are read \(avif, .*Unpack set/more.zip first"):
        reading(base)
    with pytest.raises(DataError, match="root 'nothing' does not exist"):
        reading(base, root="nothing")
    with pytest.raises(DataError, match="neither a folder nor a .json manifest"):
        reading(base, root="set/note.md")


def test_a_list_of_roots(tmp_path: Path) -> None:
    section = EveryDream2Data(root=["one", "two.json"], flip=0.5)
    assert [(one.root, one.flip) for one in expand(section, tmp_path).sections] == [
        ("one", 0.5),
        ("two.json", 0.5),
    ]


MANIFEST: list[dict[str, Any]] = [
    {"image": "a_1.jpg"},
    {"image": "in/b.jpg", "caption": "a bird, blue", "multiply": 2, "flip_p": 0.5, "batch_id": "birds"},
    {"image": "in/b.jpg", "caption": "another caption of it"},
    {"image": "c.jpg", "caption": "c.txt", "rating": 3},
    {"image": "c.jpg", "caption": "c.yaml", "loss_scale": 2},
    {"image": "c.jpg", "caption": {"main_prompt": "inline", "tags": ["x", {"tag": "y", "weight": 2}]}},
    {"image": "c.jpg", "main_prompt": "flat", "tags": ["z"], "shuffle_tags": True, "max_caption_length": 9},
]
FILES = {
    "a_1.jpg": "", "in/b.jpg": "", "c.jpg": "", "c.txt": "from txt, t", "c.yaml": "{main_prompt: from yaml, loss_scale: 4}",
    "global.yaml": "tags: [for trees only]",
}  # fmt: skip


def test_manifests(lay: Lay) -> None:
    base = lay({**FILES, "list.json": json.dumps(MANIFEST)})
    section = EveryDream2Data(root="set/list.json")
    found = list(read_everydream2(section, base, FORGETFUL).records)
    assert [record.name for record in found] == [
        "set/a_1.jpg", "set/in/b.jpg", "set/in/b.jpg", *["set/c.jpg"] * 4,
    ]  # fmt: skip
    assert all(record.image.read() == b"" for record in found)
    assert [text(record) for record in found] == [
        "a", "a bird, blue", "another caption of it", "from txt, t", "from yaml", "inline, y, x", "flat, z",
    ]  # fmt: skip
    bird, _, rated, scaled, _, flat = (treatment(record, section) for record in found[1:])
    assert (bird.repeats, bird.flip, bird.group) == (2, 0.5, "birds")
    assert (rated.rating, scaled.weight, flat.wording.shuffle) == (3, 2, True)
    assert found[-1].caption.max_length == 9


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"image": "../secret.jpg"}, "contains '..'; outside = true"),
        ({"image": "missing.jpg"}, "no file 'missing.jpg' in 'set'"),
        ({"image": "a_1.jpg", "caption": "missing.txt"}, "no file 'missing.txt'"),
        ({"image": "a_1.jpg", "caption": "../secret.txt"}, "contains '..'"),
        ({"image": 5}, "image: received '5'; allowed is a path"),
        ({"caption": "no image"}, "image: received nothing"),
        (
            {"image": "a_1.jpg", "flip_p": 2},
            "flip_p: received '2'; allowed is a number, at least 0, at most 1",
        ),
        ({"image": "a_1.jpg", "flip_p": True}, "flip_p: received 'True'"),
        ({"image": "a_1.jpg", "caption": ["a"]}, "received a list; allowed is a table of"),
        ("a_1.jpg", "received 'a_1.jpg'; allowed is a table with the key image"),
    ],
)
def test_wrong_entries_of_a_manifest(lay: Lay, entry: object, reason: str) -> None:
    base = lay({**FILES, "list.json": json.dumps([{"image": "a_1.jpg"}, entry])})
    (base / "secret.jpg").touch()
    (base / "secret.txt").touch()
    [(name, why)] = reading(base, root="set/list.json").unusable
    assert name == "entry 2 of set/list.json"
    assert reason in why


def test_files_outside_are_read_where_that_is_allowed(lay: Lay) -> None:
    base = lay({"a.jpg": "", "in/list.json": json.dumps([{"image": "../a.jpg"}, {"image": "{}"}])})
    absolute = str(base / "set" / "a.jpg")
    (base / "set/in/list.json").write_text(json.dumps([{"image": "../a.jpg"}, {"image": absolute}]))
    found = reading(base, root="set/in/list.json", outside=True)
    assert [record.image.read() for record in found.records] == [b"", b""]


def test_manifests_that_are_none(lay: Lay) -> None:
    base = lay({"a.json": '{"image": "x"}', "b.json": "[\n{]", "c.json": "[" * 100_000})
    for name, message in [("a", "holds a table"), ("b", "is not JSON: line 2"), ("c", "manifest")]:
        with pytest.raises(DataError, match=message):
            reading(base, root=f"set/{name}.json")


def test_paths_of_a_manifest_may_start_where_everydream2_has_them(
    lay: Lay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the working folder; ours start beside the manifest."""
    base = lay({"a.jpg": "", "lists/list.json": json.dumps([{"image": "set/a.jpg"}])})
    monkeypatch.chdir(base)
    assert reading(base, root="set/lists/list.json").unusable
    [record] = reading(base, root="set/lists/list.json", compat="everydream2").records
    assert record.image.read() == b""


def test_a_tree_is_scanned(write_image: Callable[..., Path], tmp_path: Path) -> None:
    """Through the whole scan: what a tree says arrives at its items."""
    write_image("set/horses/brown horse_1.png", seed=1)
    write_image("set/cat.png", seed=2, caption="a cat, grey")
    (tmp_path / "set/horses/local.yaml").write_text("{batch_id: horses, multiply: 0.5, tags: [outside]}")
    found = scan([EveryDream2Data(root="set")], tmp_path, Events())
    cat, horse = found.items
    assert (cat.name, cat.caption.text, cat.treatment.group) == ("set/cat.png", "a cat", "")
    assert (horse.caption.tags, horse.treatment.group, horse.treatment.repeats) == (
        (("outside", 1.0),),
        "horses",
        0.5,
    )


def test_yaml_files_are_parsed_once(lay: Lay, tmp_path: Path, monkeypatch: Any) -> None:
    """And their remarks are made again."""
    from velatura.data.sources import everydream2_tree

    monkeypatch.setattr("velatura.checkpoints.stamps.SETTLED_AFTER", -(10**18))
    base = lay(
        {
            "a.jpg": "",
            "a.yaml": "main_prompt: a dog\ntags: [x, {tag: y, weight: 0.5}]\nwhat: 1\n",
            "local.yaml": "multiply: 2",
        }
    )
    section = EveryDream2Data(root="set")
    remembering = partial(Listings, Index(tmp_path / "memory", Events()))
    first = read_everydream2(section, base, remembering)
    assert first == read_everydream2(section, base, FORGETFUL)
    parsed: list[str] = []
    original = everydream2_tree.read_yaml
    monkeypatch.setattr(
        everydream2_tree, "read_yaml", lambda *given: (parsed.append(given[1]), original(*given))[1]
    )
    assert read_everydream2(section, base, remembering) == first
    assert parsed == []
    (base / "set/a.yaml").write_text("main_prompt: a cat")
    again = read_everydream2(section, base, remembering)
    assert [record.caption.text for record in again.records] == ["a cat"]
    assert parsed == ["set/a.yaml"]


def test_utf_16_without_its_mark(lay: Lay) -> None:
    base = lay({"a.jpg": "", "b.jpg": "", "b.txt": "a cat"})
    (base / "set/a.txt").write_bytes("a dog".encode("utf-16-le"))
    ((name, why),) = reading(base).unusable
    assert name == "set/a.jpg"
    assert "set/a.txt: holds zero bytes" in why
    (base / "set/local.yaml").write_bytes("multiply: 2".encode("utf-16-be"))
    with pytest.raises(DataError, match=r"set/local.yaml: holds zero bytes.*save it as UTF-8"):
        reading(base)


def test_numbers_and_depths_that_python_does_not_have(lay: Lay) -> None:
    deep: Any = {"main_prompt": "x"}
    for _ in range(100):
        deep = {"caption": deep}
    entries = [
        {"image": "a.jpg", "multiply": 10**400},
        {"image": "a.jpg", "caption": deep},
        {"image": "a.jpg"},
    ]
    base = lay({"a.jpg": "", "list.json": json.dumps(entries)})
    found = reading(base, root="set/list.json")
    assert [why[:38] for _, why in found.unusable] == [
        "multiply: received '1" + "0" * 17, "caption: more than 20 tables inside ea"
    ]  # fmt: skip
