"""What validation looks at: held-out images, of which none is in training, and a share of those in training."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from velatura.data.batching.plan import Entry
from velatura.data.items import Item
from velatura.errors import DataError
from velatura.recipe.data.items import SourceData
from velatura.recipe.training.validation import Validation


def split(
    items: Sequence[Item], sections: Sequence[SourceData], validation: Validation, seed: int
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Split items into (training, held out): of the different images, the share that their table or the recipe says.

    Items with identical bytes go to the same side, wherever they lie. Who goes depends on the content and the seed
    alone (the table's `validation_seed`, else `validation.seed`, else `seed`, the recipe's), neither on names nor on
    order; a table with a share of its own and `compat = "sd-scripts"` is split by order, as there. Where a share is
    more than 0 and less than 1, at least one image is on each side. Regularisation images are never held out. Held-out
    items are used as `still` says. Raises DataError when there is but one image to share out.
    """
    if not validation.share and not any(section.validation_share for section in sections):
        return tuple(items), ()
    held_out: set[str] = set()
    for pool in _pools(items, sections, validation, seed):
        held_out |= pool.held_out()
    training = tuple(item for item in items if item.content not in held_out)
    apart = [item for item in items if item.content in held_out and not item.treatment.regularisation]
    return training, still(apart)


def watched(entries: Sequence[Entry], share: float, seed: int) -> tuple[Entry, ...]:
    """Of the images in training, a share, but at least one: each once in each of its sizes, as `still` says.

    Which ones depends on their content and the seed alone. Regularisation images are not among them.
    """
    firsts = [one for one in entries if not one.repeat and not one.item.treatment.regularisation]
    different = _ranked((one.item.content for one in firsts), f"{seed}/training")
    chosen = set(different[: max(round(share * len(different)), 1)])
    kept = [one for one in firsts if one.item.content in chosen]
    items = still([one.item for one in kept])
    return tuple(replace(one, item=item, share=1.0) for one, item in zip(kept, items, strict=True))


def still(items: Sequence[Item]) -> tuple[Item, ...]:
    """Items for validation: used once, never flipped, of equal weight, with all of their caption in its own order."""
    return tuple(
        replace(
            item,
            treatment=replace(
                item.treatment,
                repeats=1,
                flip=0.0,
                random_crop=False,
                weight=1.0,
                colour=0.0,
                wording=replace(
                    item.treatment.wording,
                    dropout=0.0,
                    dropout_every=0,
                    shuffle=False,
                    tag_dropout=0.0,
                    warmup_steps=0,
                ),
            ),
        )
        for item in items
    )


class _Pool:
    """Images of which one share is held out."""

    def __init__(self, share: float, seed: int, *, in_order: bool) -> None:
        self._share = share
        self._seed = seed
        self._in_order = in_order
        self.contents: list[str] = []

    def held_out(self) -> set[str]:
        """The contents that are held out. Raises DataError."""
        if self._share <= 0:
            return set()
        if self._share >= 1:
            return set(self.contents)
        if self._in_order:
            return _as_sd_scripts(self.contents, self._share, self._seed)
        different = _ranked(self.contents, f"{self._seed}/validation")
        if len(different) < 2:
            raise DataError(
                f"a share of {self._share:g} for validation needs at least 2 different images, "
                f"found {len(different)}. Add images, or set the share to 0."
            )
        count = min(max(round(self._share * len(different)), 1), len(different) - 1)
        return set(different[:count])


def _ranked(contents: Iterable[str], word: str) -> list[str]:
    """The different contents in an order that depends on nothing but them and `word`."""
    return sorted(
        set(contents), key=lambda one: hashlib.blake2b(f"{word}/{one}".encode(), digest_size=16).digest()
    )


def _pools(
    items: Sequence[Item], sections: Sequence[SourceData], validation: Validation, seed: int
) -> Iterator[_Pool]:
    """Tables without a share of their own have one pool; those with one have one per table, or per dataset."""
    usual = seed if validation.seed is None else validation.seed
    pools: dict[object, _Pool] = {}
    for item in items:
        section = sections[item.source]
        if item.treatment.regularisation:
            continue
        own = section.validation_share
        share = validation.share if own is None else own
        chosen = usual if section.validation_seed is None else section.validation_seed
        in_order = section.compat == "sd-scripts" and own is not None
        group = item.source if in_order or not section.dataset else section.dataset
        key = (None if own is None else group, share, chosen)
        pools.setdefault(key, _Pool(share, chosen, in_order=in_order)).contents.append(item.content)
    yield from pools.values()


def _as_sd_scripts(contents: Sequence[str], share: float, seed: int) -> set[str]:
    """The last of the images in the order that sd-scripts shuffles them to; its half of an image rounds to even."""
    order = list(contents)
    random.Random(seed).shuffle(order)
    return set(order[len(order) - round(len(order) * share) :])
