from __future__ import annotations

from velatura.data.items import Item, Treatment
from velatura.data.places import FilePlace
from velatura.data.text.captions import Caption
from velatura.data.text.warmup import with_warmup
from velatura.data.text.wording import Wording, text_of


def item(warmup: float) -> Item:
    return Item(
        name="a", place=FilePlace(""), caption=Caption(text="a, b, c, d, e, f"), width=1, height=1, content="", source=0,
        treatment=Treatment(wording=Wording(warmup_steps=warmup)),
    )  # fmt: skip


def test_a_share_of_the_run() -> None:
    found = with_warmup([item(0.5), item(7), item(0), item(0.29)], 10)
    assert [one.treatment.wording.warmup_steps for one in found] == [5, 7, 0, 2]


def test_tags_over_the_steps() -> None:
    """One more at each step: measured on sd-scripts, reference/kohya-train.md 8.2."""
    wording = with_warmup([item(0.5)], 10)[0].treatment.wording
    texts = [text_of(Caption(text="a, b, c, d, e, f"), wording, step=step) for step in range(6)]
    assert [text.count(",") + 1 for text in texts] == [1, 2, 3, 4, 5, 6]
