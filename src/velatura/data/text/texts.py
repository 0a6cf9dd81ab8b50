"""The texts that the slots of a step use, and all those that training may ask for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from velatura.data.batching.plan import Entry
from velatura.data.items import Item
from velatura.data.text.captions import Caption
from velatura.data.text.wording import Wording, is_fixed, text_of
from velatura.draws import Draw
from velatura.plural import agreeing, counted

Captioned = tuple[Caption, Wording, int]  # a caption, its wording, and the epoch of the use, from 0


def possible_texts(caption: Caption, wording: Wording) -> list[str] | None:
    """Every text that the uses of a caption can have, the empty one apart; None when they cannot be listed."""
    if not _is_listed(caption, wording):
        return None
    if is_fixed(caption, wording):
        return [text_of(caption, wording)]
    return [_variant(caption, wording, number) for number in range(wording.variants or 0)]


def texts_of(entries: Iterable[Entry], caption_dropout: float, others: Iterable[str] = ()) -> list[str]:
    """Every text that training may ask for, once: captions, the empty one if some are dropped, `others`."""
    items = _items(entries)
    texts = (text for item in items for text in possible_texts(item.caption, item.treatment.wording) or ())
    empty = [""] if any(drops(item.treatment.wording, caption_dropout) for item in items) else []
    return list(dict.fromkeys([*texts, *empty, *others]))


def typical_texts(entries: Iterable[Entry], most: int | None = None) -> dict[str, str]:
    """One text of each item by its name, with all of its tags: what can be said of captions that change.

    Of more than `most` items, the first ones.
    """
    items = islice(_items(entries), most)
    return {item.name: text_of(item.caption, item.treatment.wording) for item in items}


def why_texts_change(entries: Iterable[Entry]) -> str | None:
    """Why the texts of training cannot be encoded ahead, with the keys that are to blame; None when they can."""
    items = _items(entries)
    changing = [item for item in items if not _is_listed(item.caption, item.treatment.wording)]
    if not changing:
        return None
    keys = dict.fromkeys(key for item in changing for key in item.treatment.wording.changes_by)
    remedy = (
        "tag_warmup_steps makes them depend on the step"
        if all(item.treatment.wording.warmup_steps for item in changing)
        else "caption_variants would draw a number of texts ahead"
    )
    captions = f"{len(changing):,} of {counted(len(items), 'caption')}"
    change = agreeing(len(changing), "changes", "change")
    return f"{captions} {change} from use to use ({', '.join(keys)}); {remedy}"


def drops(wording: Wording, default: float) -> bool:
    """Whether some uses have an empty text; `default` is the share where the wording names none."""
    return wording.dropout_every > 0 or _share(wording, default) > 0


def drawn_texts(captions: Sequence[Captioned], draw: Draw, *, dropout: float, cached: bool) -> list[str]:
    """The texts of the slots of a step.

    `dropout` is the share of empty texts where a wording names none. With `cached`, texts are among those
    that `possible_texts` lists.
    """
    shares = [_share(wording, dropout) for _, wording, _ in captions]
    chances = draw.uniform("caption dropout").tolist() if any(shares) else [1.0] * len(captions)
    texts = []
    for position, (caption, wording, epoch) in enumerate(captions):
        every = wording.dropout_every
        if chances[position] < shares[position] or (every and (epoch + 1) % every == 0):
            texts.append("")
        elif is_fixed(caption, wording):
            texts.append(text_of(caption, wording))
        else:
            generator = draw.select([position]).generators("caption")[0]
            texts.append(_drawn(caption, wording, generator, step=draw.step, cached=cached))
    return texts


def _items(entries: Iterable[Entry]) -> list[Item]:
    """The different items of the entries, in order."""
    return list({id(entry.item): entry.item for entry in entries}.values())


def _is_listed(caption: Caption, wording: Wording) -> bool:
    return is_fixed(caption, wording) or (wording.variants is not None and not wording.warmup_steps)


def _share(wording: Wording, default: float) -> float:
    return default if wording.dropout is None else wording.dropout


def _drawn(
    caption: Caption, wording: Wording, chance: np.random.Generator, *, step: int, cached: bool
) -> str:
    if cached and wording.variants is not None:
        return _variant(caption, wording, int(chance.integers(wording.variants)))
    return text_of(caption, wording, chance, step=step)


def _variant(caption: Caption, wording: Wording, number: int) -> str:
    """One of the texts that are drawn ahead: it depends on the caption and its number alone."""
    identity = f"{caption.text}/{caption.tags}".encode(errors="surrogatepass")
    seed = int.from_bytes(hashlib.blake2b(identity, digest_size=7).digest(), "little")
    return text_of(caption, wording, Draw.of(seed, step=number).generators("variant")[0])
