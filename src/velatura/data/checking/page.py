"""The page that a user opens before training: self-contained, with pictures of what will be trained."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from itertools import groupby

from velatura.data.checking.check import Checked
from velatura.data.checking.document import summary_of
from velatura.data.checking.findings import MEANING, Finding, Kind
from velatura.data.checking.pictures import Picture
from velatura.plural import counted

_LISTED = 200  # lines of a list; the JSON has all
_CAPTION = 400  # characters of a caption
_TAG = 80  # characters of a tag, which may be a whole sentence
_WORDS = {"held_out": "for validation", "quarantined": "left out", "epochs": "epochs of the run"}
_ROOM = 18_000_000  # bytes of all cards in a page
_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #8886 }
table { border-collapse: collapse } td, th { padding: .15rem 1rem .15rem 0; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); gap: 1rem;
  align-items: start }
.card { border: 1px solid #8886; border-radius: 6px; padding: .6rem; font-size: 13px;
  content-visibility: auto; contain-intrinsic-size: 16rem 16rem }
.card b { overflow-wrap: anywhere } .card p { margin: .3rem 0; overflow-wrap: anywhere; white-space: pre-line }
.pictures { display: flex; flex-wrap: wrap; gap: .4rem }
figure { margin: 0 } figcaption { opacity: .7; font-size: 11px }
img { display: block; max-width: 100% } .refused { color: #c22; white-space: pre-line } .finding { color: #b60 }
.aside { opacity: .7 } .bar { background: #48a8; height: .8rem }
"""


def page_of(checked: Checked, pictures: Mapping[int, Sequence[Picture]]) -> str:
    """The whole page, under 20 MB; `pictures` are by position of the item.

    An item has one card, with all that was found, under the first of its findings.
    """
    cards = _cards(checked, pictures)
    carded = frozenset(cards)
    parts = [
        f"<h1>{escape(checked.name)}: the data</h1>",
        _verdict(checked),
        _section("In numbers", _summary(checked)),
        _section("What was found", _found(checked)),
        _section("Left out", _list([str(one) for one in checked.quarantined])),
        _section("Remarks", _list(checked.warnings)),
        _section("Buckets", _buckets(checked)),
        *(_findings(kind, checked, cards, carded) for kind in MEANING),
        _section("Tags", _tags(checked)),
        _section("A sample of the others", _row(cards.values())),  # those that no finding took
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(checked.name)}: the data</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<h2 id='{_anchor(title)}'>{escape(title[0].upper() + title[1:])}</h2>{body}" if body else ""


def _anchor(title: str) -> str:
    return escape(title.lower().replace(" ", "-"))


def _verdict(checked: Checked) -> str:
    if checked.refusals:
        reasons = "".join(f"<p class='refused'>{escape(reason)}</p>" for reason in checked.refusals)
        return f"<p class='refused'><b>Training would refuse this data.</b></p>{reasons}"
    return "<p><b>Training would start.</b> What follows may still be worth a look.</p>"


def _summary(checked: Checked) -> str:
    facts = summary_of(checked)
    facts["tokens_counted_by"] = ", ".join(checked.encoders) or "nobody: there are no tokenizers here"
    rows = [
        (_WORDS.get(key, key.replace("_", " ")), value if isinstance(value, str) else f"{value:,.10g}")
        for key, value in facts.items()
    ]
    return _table(rows)


def _found(checked: Checked) -> str:
    """How many images of each kind there are; a click leads to them."""
    counts = checked.counts()
    rows = (
        (f"<a href='#{_anchor(kind)}'>{kind}</a>", f"{counts[kind]:,}", escape(MEANING[kind]))
        for kind in MEANING
        if kind in counts
    )
    return _table(rows, plain=False)


def _buckets(checked: Checked) -> str:
    most = max(checked.buckets.values(), default=1)
    rows = (
        (
            f"{width}x{height}",
            f"{uses:,}",
            f"<div class='bar' style='width:calc({uses / most:.4f} * min(24rem, 50vw))'></div>",
        )
        for (width, height), uses in checked.buckets.items()
    )
    return _table(rows, plain=False)


def _findings(kind: Kind, checked: Checked, cards: dict[int, str], carded: Collection[int]) -> str:
    """A section of a kind of finding; its cards are taken out of `cards`.

    Items whose card stands in an earlier section are listed, with a link to it: `carded` are all that have one.
    """
    texts = {finding.item: finding.text for finding in checked.findings if finding.kind == kind}
    shown = {i: cards.pop(i) for i in texts if i in cards}
    listed = [
        f"{_linked(i, checked.items[i].name, carded)}: {escape(text)}"
        for i, text in texts.items()
        if i not in shown
    ]
    images = counted(len(texts), "image")
    body = f"<p>{images}: {escape(MEANING[kind])}.</p>{_row(shown.values())}{_listed(listed)}"
    return _section(kind, body) if texts else ""


def _linked(i: int, name: str, carded: Collection[int]) -> str:
    return f"<a href='#item-{i}'>{escape(name)}</a>" if i in carded else escape(name)


def _cards(checked: Checked, pictures: Mapping[int, Sequence[Picture]]) -> dict[int, str]:
    """The cards of the items that have pictures, those with findings first, until the page is full."""
    found: dict[int, list[Finding]] = {}
    for finding in checked.findings:
        found.setdefault(finding.item, []).append(finding)
    cards: dict[int, str] = {}
    room = _ROOM
    for i in dict.fromkeys((*found, *pictures)):
        if pictures.get(i):
            card = _card(i, checked, pictures[i], found.get(i, []))
            room -= len(card.encode("utf-8", errors="replace"))
            if room < 0:
                break
            cards[i] = card
    return cards


def _row(cards: Collection[str]) -> str:
    return f"<div class='cards'>{''.join(cards)}</div>" if cards else ""


def _card(i: int, checked: Checked, pictures: Sequence[Picture], findings: Sequence[Finding]) -> str:
    item, worded = checked.items[i], checked.worded[i]
    buckets = ", ".join(f"{entry.bucket[0]}x{entry.bucket[1]}" for entry in checked.entries[i])
    uses = (
        "validation" if i in checked.held_out else f"{checked.uses.of_item.get(item.identity, 0):g} per epoch"
    )
    rows = "".join(_figures(list(group)) for _, group in groupby(pictures, key=lambda one: one.use))
    drawn = "<p class='aside'>its caption, as some uses have it:</p>" if len(worded.texts) > 1 else ""
    captions = drawn + "".join(
        f"<p>{escape(_shortened(text)) or '<i>empty</i>'}</p>" for text in worded.texts
    )
    tokens = ", ".join(f"{count.encoder} {count.tokens} (reads {count.read})" for count in worded.tokens)
    return (
        f"<div class='card' id='item-{i}'>{rows}<b>{escape(item.name)}</b><br>"
        f"{item.width}x{item.height} → {buckets}, {uses}"
        + "".join(f"<p class='finding'>{one.kind}: {escape(_shortened(one.text))}</p>" for one in findings)
        + captions
        + (f"<p class='aside'>tokens: {escape(tokens)}</p>" if tokens else "")
        + "</div>"
    )


def _figures(pictures: Sequence[Picture]) -> str:
    """What one use shows: the image and its companions side by side."""
    figures = "".join(
        f"<figure><img src='{one.uri}' width='{one.width}' height='{one.height}' alt=''>"
        f"<figcaption>{escape(one.label)}</figcaption></figure>"
        for one in pictures
    )
    return f"<div class='pictures'>{figures}</div>"


def _shortened(text: str) -> str:
    return text if len(text) <= _CAPTION else f"{text[:_CAPTION]}… ({len(text)} characters)"


def _tags(checked: Checked) -> str:
    rows = [
        (tag if len(tag) <= _TAG else f"{tag[:_TAG]}…", f"{count:,}")
        for tag, count in checked.tags.most_common(60)
    ]
    once = sum(1 for count in checked.tags.values() if count == 1)
    if not rows:
        return ""
    return f"<p>{len(checked.tags):,} different ones, {once:,} of them on one image only.</p>{_table(rows)}"


def _list(lines: Sequence[str]) -> str:
    return _listed([escape(line) for line in lines])


def _listed(lines: Sequence[str]) -> str:
    """A list of HTML, not longer than anyone reads."""
    if not lines:
        return ""
    more = (
        f"<li>… and {len(lines) - _LISTED} more, all of them in the JSON</li>" if len(lines) > _LISTED else ""
    )
    return f"<ul>{''.join(f'<li>{line}</li>' for line in lines[:_LISTED])}{more}</ul>"


def _table(rows: Iterable[Sequence[str]], *, plain: bool = True) -> str:
    """A table of texts, or with `plain = False` of HTML; the second column holds numbers."""
    lines = []
    for row in rows:
        cells = [escape(cell) for cell in row] if plain else list(row)
        cells[1] = f"<td class='number'>{cells[1]}</td>"
        cells[0] = f"<td>{cells[0]}</td>"
        cells[2:] = [f"<td>{cell}</td>" for cell in cells[2:]]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>" if lines else ""
