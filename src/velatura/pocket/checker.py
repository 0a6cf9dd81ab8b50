"""Whether a picture shows what its caption says, attribute by attribute, and how often over many pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Final

from velatura.errors import DataError
from velatura.plural import counted
from velatura.pocket.captions import Expectation, ExpectedSolid, parse
from velatura.pocket.reading import Detected, Reading, read_scene
from velatura.pocket.renderer import Image

OF_SOLIDS: Final = ("colour", "shape", "size", "material")
OF_SCENES: Final = ("light", "left_right", "count")
ATTRIBUTES: Final = OF_SOLIDS + OF_SCENES


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One stated attribute; `solid` is the place of the solid in the expectation, None for the whole scene."""

    attribute: str
    solid: int | None
    expected: str
    found: str
    right: bool


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What a caption states, what the picture shows, and a mark for each stated attribute."""

    expected: Expectation
    reading: Reading
    marks: tuple[Mark, ...]

    @property
    def right(self) -> bool:
        """Whether everything that the caption states is so."""
        return all(mark.right for mark in self.marks)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How many of the stated attributes of one kind were right."""

    right: int
    stated: int

    @property
    def share(self) -> float:
        """Right over stated; nan when the attribute was never stated."""
        return self.right / self.stated if self.stated else float("nan")


@dataclass(frozen=True, kw_only=True)
class Score:
    """Tallies per attribute: over all captions, and over those of one solid and of two."""

    pictures: int
    everything: Tally
    overall: dict[str, Tally]
    one_solid: dict[str, Tally]
    two_solids: dict[str, Tally]

    def table(self) -> str:
        """A table of text: share right and denominators, one line per attribute."""
        lines = [f"{'attribute':<12}{'all':>16}{'one solid':>16}{'two solids':>16}"]
        for name in ATTRIBUTES:
            cells = [_cell(tallies[name]) for tallies in (self.overall, self.one_solid, self.two_solids)]
            lines.append(f"{name:<12}" + "".join(f"{cell:>16}" for cell in cells))
        lines.append(f"{'everything':<12}{_cell(self.everything):>16}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """All tallies as JSON, each {"right": n, "stated": n}."""
        return json.dumps(asdict(self))


def check(image: Image, expected: Expectation | str) -> CheckResult:
    """Read a picture, uint8 [H, H, 3], and compare it with a caption; raises DataError when that names no solid.

    Detected solids are paired with expected ones so that most attributes agree; among equals, in the stated order.
    Attributes of a solid that is not there are wrong. Left and right is marked when the caption states it.
    """
    expectation = parse(expected) if isinstance(expected, str) else expected
    reading = read_scene(image)
    pairing = _pairing(expectation, reading.solids)
    marks: list[Mark] = []
    for index, solid in enumerate(expectation.solids):
        marks.extend(_marks_of_solid(index, solid, pairing[index]))
    marks.extend(_marks_of_scene(expectation, reading, pairing))
    return CheckResult(expected=expectation, reading=reading, marks=tuple(marks))


def score(images: Iterable[Image], captions: Sequence[Expectation | str]) -> Score:
    """Check pictures, each against its caption; raises DataError when there are not as many of both."""
    pictures = list(images)
    if len(pictures) != len(captions):
        found = f"{counted(len(pictures), 'picture')} but {counted(len(captions), 'caption')}"
        raise DataError(f"{found}\n  give one caption for each picture")
    return tally([check(image, caption) for image, caption in zip(pictures, captions, strict=True)])


def tally(results: Sequence[CheckResult]) -> Score:
    """Count the marks of many results."""
    return Score(
        pictures=len(results),
        everything=Tally(right=sum(result.right for result in results), stated=len(results)),
        overall=_tallies(results),
        one_solid=_tallies([result for result in results if len(result.expected.solids) == 1]),
        two_solids=_tallies([result for result in results if len(result.expected.solids) == 2]),
    )


def _tallies(results: Sequence[CheckResult]) -> dict[str, Tally]:
    marks = [mark for result in results for mark in result.marks]
    return {
        name: Tally(
            right=sum(mark.right for mark in marks if mark.attribute == name),
            stated=sum(mark.attribute == name for mark in marks),
        )
        for name in ATTRIBUTES
    }


def _pairing(expectation: Expectation, seen: tuple[Detected, ...]) -> tuple[Detected | None, ...]:
    """For each expected solid the detected one that stands for it, or None."""
    number = len(expectation.solids)
    slots: list[Detected | None] = [*sorted(seen, key=lambda one: -one.confidence)[: number + 2]]
    slots += [None] * max(0, number - len(slots))
    return max(
        permutations(slots, number),
        key=lambda chosen: (
            sum(_agreement(solid, one) for solid, one in zip(expectation.solids, chosen, strict=True)),
            expectation.ordered and _in_order(chosen),
        ),
    )


def _agreement(solid: ExpectedSolid, seen: Detected | None) -> int:
    """How many stated attributes agree; shape and colour tell solids apart best, so they count double."""
    if seen is None:
        return 0
    weights = {"colour": 2, "shape": 2, "size": 1, "material": 1}
    return sum(
        weight for name, weight in weights.items() if getattr(solid, name) == getattr(seen.solid, name)
    )


def _in_order(chosen: Sequence[Detected | None]) -> bool:
    places = [one.solid.x for one in chosen if one is not None]
    return len(places) == len(chosen) and places == sorted(places)


def _marks_of_solid(index: int, solid: ExpectedSolid, seen: Detected | None) -> list[Mark]:
    marks: list[Mark] = []
    for name in OF_SOLIDS:
        stated: str | None = getattr(solid, name)
        if stated is not None:
            found = "missing" if seen is None else str(getattr(seen.solid, name))
            marks.append(
                Mark(attribute=name, solid=index, expected=stated, found=found, right=found == stated)
            )
    return marks


def _marks_of_scene(
    expectation: Expectation, reading: Reading, pairing: tuple[Detected | None, ...]
) -> list[Mark]:
    stated, there = len(expectation.solids), len(reading.solids)
    marks = [
        Mark(attribute="count", solid=None, expected=str(stated), found=str(there), right=stated == there)
    ]
    if expectation.light is not None:
        right = reading.light == expectation.light
        marks.append(
            Mark(attribute="light", solid=None, expected=expectation.light, found=reading.light, right=right)
        )
    if expectation.ordered and stated > 1:
        right = _in_order(pairing)
        found = "as told" if right else "otherwise"
        marks.append(Mark(attribute="left_right", solid=None, expected="as told", found=found, right=right))
    return marks


def _cell(counts: Tally) -> str:
    return f"{counts.share:7.1%} of {counts.stated:>4}" if counts.stated else "-"
