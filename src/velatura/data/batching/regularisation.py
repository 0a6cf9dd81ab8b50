"""Regularisation images are used as often, together, as the images that they stand beside."""

from __future__ import annotations

from collections.abc import Sequence

from velatura.data.items import Item
from velatura.recipe.data.items import SourceData


def balanced_repeats(items: Sequence[Item], sections: Sequence[SourceData]) -> list[float]:
    """Uses per epoch of each item; one that is trained at two sizes is among `items` twice.

    The repeats of the regularisation images of a `dataset` are scaled by one factor, so that they are used as often
    as all its others: of more than are needed, each is used in some epochs. With `compat = "sd-scripts"` they are
    counted out in turn instead, and of more than are needed the last are never used.
    """
    repeats = [item.treatment.repeats for item in items]
    if not any(item.treatment.regularisation for item in items):
        return repeats
    datasets: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        datasets.setdefault(sections[item.source].dataset, []).append(index)
    for members in datasets.values():
        classes = [index for index in members if items[index].treatment.regularisation]
        wanted = sum(repeats[index] for index in members) - sum(repeats[index] for index in classes)
        if not classes or wanted <= 0:
            continue
        in_turn = all(sections[items[index].source].compat == "sd-scripts" for index in classes)
        own = [repeats[index] for index in classes]
        uses = _in_turn(own, wanted) if in_turn else [count * wanted / sum(own) for count in own]
        for index, count in zip(classes, uses, strict=True):
            repeats[index] = count
    return repeats


def _in_turn(own: Sequence[float], wanted: float) -> list[float]:
    """Each as often as its own repeats say, until there are enough; then one use more for each, round after round."""
    counts: list[float] = [0.0] * len(own)
    total = 0.0
    for index, count in enumerate(own):
        if total >= wanted:
            return counts
        counts[index] = count
        total += count
    index = 0
    while total < wanted:
        counts[index % len(own)] += 1
        total += 1
        index += 1
    return counts
