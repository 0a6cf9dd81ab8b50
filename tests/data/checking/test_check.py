"""A small dataset with one of each fault: every one of them is found, and nothing else."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from velatura.data.batching.order import BatchPlan
from velatura.data.batching.plan import Entry
from velatura.data.checking.check import Checked, Uses, check_items
from velatura.data.checking.document import document_of
from velatura.data.checking.page import page_of
from velatura.data.checking.pictures import Picture, pictures_of, shown_items
from velatura.data.checking.wordings import TokenCount
from velatura.data.items import Companion, Item
from velatura.data.places import FilePlace
from velatura.data.scanning.probe import content_hash
from velatura.data.text.captions import Caption
from velatura.data.text.wording import Wording

Make = Callable[..., Item]


def entry(item: Item, bucket: tuple[int, int] = (64, 64)) -> Entry:
    return Entry(item=item, bucket=bucket)


def count_words(text: str) -> tuple[TokenCount, ...]:
    return (TokenCount(encoder="words", tokens=len(text.split()), read=5),)


@pytest.fixture
def checked(make_item: Make, tmp_path: Path, log: Any) -> Checked:
    good = make_item("good.png", seed=1)
    twin = make_item("twin.png", seed=1)
    small = make_item("small.png", (32, 32), seed=2)
    wide = make_item("wide.png", (256, 64), seed=3)
    long = make_item("long.png", seed=4, caption=Caption(text="one two three four five six", origin="file"))
    bare = make_item("bare.png", seed=5, caption=Caption())
    tiny = make_item("tiny.png", (16, 16), seed=6)  # no entry: left out
    broken = make_item("broken.png", seed=7)
    (tmp_path / "broken.png").write_bytes(b"other bytes")
    items = [good, twin, small, wide, long, bare, tiny, broken]
    used = [entry(item) for item in items if item is not tiny]
    return check_items("test", items, used[:-1], used[-1:], log.events, counter=count_words)


def test_each_fault_is_found(checked: Checked) -> None:
    found = {(finding.kind, checked.items[finding.item].name) for finding in checked.findings}
    assert found == {
        ("damaged", "broken.png"),
        ("duplicate", "good.png"),
        ("duplicate", "twin.png"),
        ("enlarged", "small.png"),
        ("cropped", "wide.png"),
        ("caption cut", "long.png"),
        ("no caption", "bare.png"),
        ("too small", "tiny.png"),
    }
    assert checked.held_out == {7}
    (refusal,) = checked.refusals
    assert refusal.startswith("1 image cannot be decoded:\n  broken.png")


def test_the_json_has_every_item(checked: Checked) -> None:
    document = json.loads(json.dumps(document_of(checked)))
    assert [item["name"] for item in document["items"]] == [item.name for item in checked.items]
    small = document["items"][2]
    assert small["enlargement"] == 2.0
    assert small["buckets"] == [[64, 64]]
    assert document["items"][4]["tokens"] == [{"encoder": "words", "tokens": 6, "read": 5}]
    assert document["summary"]["trained"] == 6


def test_the_page_shows_what_is_trained(make_item: Make, log: Any, tmp_path: Path) -> None:
    """Left half red, right half blue; the flipped picture must be blue on the left."""
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, :32, 0] = halves[:, 32:, 2] = 255
    item = make_item("a<b>.png", flip=0.5, caption=Caption(text="<script>", origin="file"))
    Image.fromarray(halves).save(tmp_path / "a<b>.png")
    item = replace(item, content=content_hash((tmp_path / "a<b>.png").read_bytes()))
    checked = check_items("test", [item], [entry(item)], [], log.events)
    pictures = pictures_of(checked, shown_items(checked), log.events)
    assert [one.label for one in pictures[0]] == ["as trained", "flipped"]
    left = [pixels_of(one.uri)[32, 8] for one in pictures[0]]
    assert (left[0][0] > 200, left[0][2] < 60) == (True, True)
    assert (left[1][0] < 60, left[1][2] > 200) == (True, True)
    page = page_of(checked, pictures)
    assert page.count("data:image/jpeg") == 2
    assert "<script>" not in page
    assert not re.search(r"(src|href)=['\"]https?:", page)


def pixels_of(uri: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_captions_that_change_are_shown_a_few_times(make_item: Make, log: Any) -> None:
    item = make_item(
        "a.png", caption=Caption(text="a, b, c, d, e", origin="file"), wording=Wording(shuffle=True)
    )
    (worded,) = check_items("test", [item], [entry(item)], [], log.events).worded
    assert worded.texts[0] == "a, b, c, d, e"
    assert len(worded.texts) == 4
    assert {frozenset(text.split(", ")) for text in worded.texts} == {frozenset("abcde")}


def test_an_image_that_two_tables_use_is_no_twin_of_itself(make_item: Make, log: Any) -> None:
    """As where a dataset is trained at two resolutions."""
    item = make_item("good.png", seed=1)
    again = replace(item, source=1)
    found = check_items("test", [item, again], [entry(item), entry(again, (128, 128))], [], log.events)
    assert len(found.items) == 2
    assert not {"duplicate", "near duplicate"} & found.counts().keys()


def test_uses_are_told_table_by_table_and_row_by_row(make_item: Make, log: Any) -> None:
    """One file in two tables, and in two rows of the second, with a caption of its own in each."""
    item = make_item("good.png", seed=1, caption=Caption(text="one"))
    again = replace(item, source=1)
    row = replace(again, caption=Caption(text="two"))
    entries = [entry(item), entry(item), entry(item), entry(again), entry(again), entry(row)]
    plan = BatchPlan(entries, batch_size=1)
    checked = check_items("test", [item, again, row], entries, [], log.events, uses=Uses(of_item=plan.uses()))
    listed = [(one["caption"], one["uses_per_epoch"]) for one in document_of(checked)["items"]]
    assert listed == [("one", 3), ("one", 2), ("two", 1)]


def test_an_item_has_one_card_with_all_its_findings(make_item: Make, log: Any) -> None:
    items = [make_item(f"{n}.png", (32, 32), seed=1, caption=Caption()) for n in range(2)]
    checked = check_items("test", items, [entry(item) for item in items], [], log.events)
    assert checked.counts() == {"enlarged": 2, "duplicate": 2, "no caption": 2}
    page = page_of(checked, pictures_of(checked, shown_items(checked), log.events))
    assert page.count("data:image/jpeg") == 2
    card = page[page.index("<div class='card' id='item-0'>") : page.index("<h2 id='duplicate'>")]
    for expected in ("enlarged: 2.00 times", "duplicate: of 1.png", "no caption: (empty)"):
        assert expected in card, expected
    assert "<li><a href='#item-0'>0.png</a>: of 1.png</li>" in page[page.index("<h2 id='duplicate'>") :]
    for place in re.findall(r"href='#([^']+)'", page):
        assert page.count(f"id='{place}'") == 1, place


def test_a_long_tag_is_told_to_be_cut(make_item: Make, log: Any) -> None:
    item = make_item("a.png", caption=Caption(text=f"{'x' * 80}, {'y' * 81}"))
    page = page_of(check_items("test", [item], [entry(item)], [], log.events), {})
    assert f"<td>{'x' * 80}</td>" in page
    assert f"<td>{'y' * 80}…</td>" in page


def test_the_page_stays_under_20_mb(make_item: Make, log: Any) -> None:
    """However long the captions are, and though all pictures are suspicious."""
    item = make_item("a.png", (32, 32), caption=Caption(text="\N{CJK UNIFIED IDEOGRAPH-732B}" * 10_000))
    items = [replace(item, name=f"{n}.png", content=f"{n:032x}") for n in range(1500)]
    checked = check_items("test", items, [entry(item) for item in items], [], log.events)
    uri = "data:image/jpeg;base64," + "A" * 20_000
    pictures = {n: [Picture(label="as trained", uri=uri, width=64, height=64)] for n in range(len(items))}
    page = page_of(checked, pictures)
    assert 15_000_000 < len(page.encode()) < 20_000_000
    assert "more, all of them in the JSON" in page


def test_pictures_say_what_they_are(make_item: Make, log: Any, write_image: Any) -> None:
    path = write_image("extra/a.png")
    companion = Companion(
        place=FilePlace(str(path)), content=content_hash(path.read_bytes()), width=64, height=64
    )
    item = make_item("a.png", flip=0.5, companions={"mask": companion, "reference": companion})
    checked = check_items("test", [item], [entry(item)], [], log.events)
    (shown,) = pictures_of(checked, shown_items(checked), log.events).values()
    mask, reference = "mask: red does not count", "reference: before the edit"
    assert [one.label for one in shown] == [
        "as trained", mask, reference, "flipped", f"{mask}, flipped", f"{reference}, flipped",
    ]  # fmt: skip
    rows = page_of(checked, {0: shown}).split("<div class='pictures'>")[1:]
    assert [row.count("<figure>") for row in rows] == [3, 3]
