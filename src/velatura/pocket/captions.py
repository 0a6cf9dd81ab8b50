"""Captions of scenes: one canonical form, varied natural ones that name the same facts, and how to read them back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np

from velatura.errors import DataError
from velatura.pocket.scenes import COLOURS, CONCEPTS, LIGHTS, MATERIALS, SHAPES, SIZES, Scene, Solid

LEAVE_OUT: Final = 0.15
"""How often a varied caption leaves out some attributes."""
ORDERS: Final = (
    ("size", "colour", "material"),
    ("size", "material", "colour"),
    ("colour", "size", "material"),
    ("material", "size", "colour"),
)
ORDER_SHARES: Final = (0.7, 0.15, 0.08, 0.07)
PLAIN_WORDS: Final = frozenset(
    {
        "a",
        "an",
        "the",
        "and",
        "of",
        "on",
        "at",
        "to",
        "in",
        "with",
        "left",
        "right",
        "next",
        "between",
        "from",
    }
    | {"is", "stands", "picture", "photo", "render", "image", "table", "empty"}
)
"""Words that captions use without stating an attribute."""
OPENINGS: Final = ("", "", "", "", "", "a picture of ", "a photo of ", "a render of ")


@dataclass(frozen=True, kw_only=True)
class ExpectedSolid:
    """What a caption says of one solid; None: not said."""

    shape: str
    colour: str | None = None
    size: str | None = None
    material: str | None = None


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What a caption says of a scene.

    With `ordered` the solids are told from left to right; without, in the order of the caption. `unknown` holds
    the words that the pocket world has no meaning for.
    """

    solids: tuple[ExpectedSolid, ...]
    ordered: bool
    light: str | None
    unknown: tuple[str, ...] = ()


def caption_full(scene: Scene) -> str:
    """The canonical caption: every attribute of every solid, who stands left of whom, and the light."""
    phrases = [f"a {solid.attributes}" for solid in scene.solids]
    if len(phrases) == 3:
        left, middle, right = phrases
        return f"{middle} between {left} on the left and {right} on the right at {scene.light}"
    return f"{' to the left of '.join(phrases) or 'an empty table'} at {scene.light}"


def caption(scene: Scene, rng: np.random.Generator, leave_out: float = LEAVE_OUT) -> str:
    """A varied caption; in a share `leave_out` of the captions some attributes are not named."""
    drop = frozenset[str]()
    if rng.random() < leave_out:
        chances = {"material": 0.6, "size": 0.5, "light": 0.4}
        drop = frozenset(name for name, chance in chances.items() if rng.random() < chance)
    phrases = [phrase(solid, rng, drop) for solid in scene.solids]
    text = _arranged(phrases, rng)
    if "light" in drop:
        return _opened(text, rng)
    style = rng.random()
    if style < 0.12:
        return f"at {scene.light}, {text}"
    if style < 0.24 and len(phrases) < 3:
        return _opened(f"{text} on a table at {scene.light}", rng)
    ending = f"{text} at {scene.light}"
    return ending if len(phrases) == 3 else _opened(ending, rng)


def phrase(solid: Solid, rng: np.random.Generator, drop: frozenset[str] = frozenset()) -> str:
    """A noun phrase for one solid, such as "a large red matte cube", without the attributes in `drop`."""
    order = ORDERS[rng.choice(len(ORDERS), p=ORDER_SHARES)]
    words = {"size": solid.size, "colour": solid.colour, "material": solid.material}
    named = [words[name] for name in order if name not in drop]
    return _article(" ".join([*named, solid.shape]))


def _arranged(phrases: list[str], rng: np.random.Generator) -> str:
    """Put phrases, given from left to right, into one sentence."""
    if len(phrases) == 1:
        return phrases[0]
    if len(phrases) == 2:
        left, right = phrases
        forms = (
            f"{left} to the left of {right}",
            f"{right} to the right of {left}",
            f"{left} on the left and {right} on the right",
            f"{left} next to {right} on the right",
        )
        return forms[rng.choice(4, p=(0.38, 0.34, 0.18, 0.10))]
    if not phrases:
        return "an empty table"
    left, middle, right = phrases
    forms3 = (
        f"{middle} between {left} on the left and {right} on the right",
        f"{left}, {middle} and {right} from left to right",
        f"from left to right {left}, {middle} and {right}",
    )
    return forms3[rng.integers(3)]


def _opened(text: str, rng: np.random.Generator) -> str:
    return OPENINGS[rng.integers(len(OPENINGS))] + text


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def parse(text: str) -> Expectation:
    """Read which attributes, relations and light a caption states; raises DataError when it names no solid."""
    words = re.findall(r"[a-z]+", text.lower())
    solids, sides, unknown = _solids(words)
    if not solids and "empty" not in words:
        raise DataError(
            f"no solid is named in {text!r}\n  expected one of: {', '.join(SHAPES + CONCEPTS)}, as in 'a red cube'"
        )
    order = _order(" ".join(words), sides)
    lights = [word for word in words if word in LIGHTS]
    return Expectation(
        solids=tuple(solids[index] for index in order) if order else tuple(solids),
        ordered=order is not None,
        light=lights[-1] if lights else None,
        unknown=unknown,
    )


def _solids(words: list[str]) -> tuple[list[ExpectedSolid], list[str], tuple[str, ...]]:
    """The solids in reading order, which side each is said to be on ("" for none), and the unknown words."""
    solids: list[ExpectedSolid] = []
    sides: list[str] = []
    unknown: list[str] = []
    said: dict[str, str] = {}
    for index, word in enumerate(words):
        if word in SHAPES + CONCEPTS:
            solids.append(
                ExpectedSolid(
                    shape=word,
                    colour=said.get("colour"),
                    size=said.get("size"),
                    material=said.get("material"),
                )
            )
            sides.append(_side(words[index + 1 : index + 4]))
            said = {}
        elif word in COLOURS:
            said["colour"] = word
        elif word in SIZES:
            said["size"] = word
        elif word in MATERIALS:
            said["material"] = word
        elif word not in PLAIN_WORDS and word not in LIGHTS:
            unknown.append(word)
    return solids, sides, tuple(unknown)


def _side(after: list[str]) -> str:
    """The side that the three words after a solid put it on, "" for none."""
    return after[-1] if after in (["on", "the", "left"], ["on", "the", "right"]) else ""


def _order(text: str, sides: list[str]) -> list[int] | None:
    """Indices of the solids from left to right, or None where the caption does not say."""
    count = len(sides)
    if count < 2:
        return list(range(count))
    if "from left to right" in text or text.count("to the left of") == count - 1:
        return list(range(count))
    if text.count("to the right of") == count - 1:
        return list(range(count))[::-1]
    if count == 2 and any(sides):
        return [0, 1] if sides[0] == "left" or sides[1] == "right" else [1, 0]
    if count == 3 and sides[1:] == ["left", "right"]:
        return [1, 0, 2]
    if count == 3 and sides[1:] == ["right", "left"]:
        return [2, 0, 1]
    return None
