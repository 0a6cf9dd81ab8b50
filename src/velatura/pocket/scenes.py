"""Scenes of the pocket world: a few solids on a table under one light, and the words that name them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal

import numpy as np

from velatura.errors import DataError

Split = Literal["train", "held-out"]

SHAPES: Final = ("sphere", "cube", "cylinder", "cone", "torus")
CONCEPTS: Final = ("snowman", "mushroom")
"""Composite things that no ordinary scene contains: what a LoRA is taught in the demo."""

COLOURS: Final[dict[str, tuple[float, float, float]]] = {
    "red": (0.82, 0.08, 0.09),
    "orange": (0.97, 0.46, 0.05),
    "yellow": (0.96, 0.84, 0.12),
    "green": (0.12, 0.60, 0.18),
    "blue": (0.11, 0.31, 0.88),
    "purple": (0.47, 0.15, 0.68),
    "pink": (0.98, 0.52, 0.72),
    "white": (0.95, 0.95, 0.94),
}
"""Colour name -> surface colour, sRGB in 0..1."""

SIZES: Final[dict[str, float]] = {"small": 0.30, "large": 0.50}
"""Size name -> radius of the sphere of that size, metres."""

MATERIALS: Final = ("matte", "glossy", "striped")
LIGHTS: Final = ("noon", "dusk", "night")

HELD_OUT_SHARE: Final = 20
"""One attribute combination in this many is held out."""


@dataclass(frozen=True, kw_only=True)
class Solid:
    """One thing on the table; (x, z) is where it stands, metres: x to the right, z away from the viewer."""

    shape: str
    colour: str
    size: str
    material: str
    x: float
    z: float

    def __post_init__(self) -> None:
        _known("shape", self.shape, SHAPES + CONCEPTS)
        _known("colour", self.colour, tuple(COLOURS))
        _known("size", self.size, tuple(SIZES))
        _known("material", self.material, MATERIALS)

    @property
    def radius(self) -> float:
        """Radius of the sphere of this size, metres."""
        return SIZES[self.size]

    @property
    def attributes(self) -> str:
        """Canonical words: size, colour, material, shape."""
        return f"{self.size} {self.colour} {self.material} {self.shape}"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Solids on the table, in order from left to right, under one light."""

    solids: tuple[Solid, ...]
    light: str

    def __post_init__(self) -> None:
        _known("light", self.light, LIGHTS)
        if list(self.solids) != sorted(self.solids, key=lambda solid: solid.x):
            object.__setattr__(self, "solids", tuple(sorted(self.solids, key=lambda solid: solid.x)))

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back exactly."""
        return json.dumps({"light": self.light, "solids": [asdict(solid) for solid in self.solids]})

    @staticmethod
    def from_json(text: str) -> Scene:
        """Read what `to_json` wrote; raises DataError for anything else."""
        try:
            record = json.loads(text)
            solids = tuple(Solid(**solid) for solid in record["solids"])
            return Scene(solids=solids, light=record["light"])
        except (ValueError, KeyError, TypeError) as problem:
            expected = f"expected a line of scenes.jsonl ({problem})"
            raise DataError(f"not a pocket scene: {text[:80]!r}\n  {expected}") from problem


def held_out(scene: Scene) -> bool:
    """Whether the attribute combination of this scene is never trained on (about 5 % are).

    The rule hashes the set of (size, colour, material, shape) of its solids; light and places do not count.
    """
    words = " + ".join(sorted(solid.attributes for solid in scene.solids))
    digest = hashlib.blake2b(words.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_SHARE == 0


def edit(
    scene: Scene,
    index: int,
    *,
    shape: str | None = None,
    colour: str | None = None,
    size: str | None = None,
    material: str | None = None,
    position: tuple[float, float] | None = None,
    light: str | None = None,
) -> Scene:
    """The same scene with exactly one thing changed: an attribute of solid `index`, or the light.

    `position` is (x, z) in metres. The result may overlap or leave the frame (`layout.fits` tells).
    Raises DataError when not exactly one change is given, or the index is not there.
    """
    changes = {"shape": shape, "colour": colour, "size": size, "material": material}
    given = {name: value for name, value in changes.items() if value is not None}
    if len(given) + (position is not None) + (light is not None) != 1:
        raise DataError("edit changes exactly one of shape, colour, size, material, position, light")
    if light is not None:
        return replace(scene, light=light)
    solid = _solid_at(scene, index)
    if position is not None:
        changed = replace(solid, x=position[0], z=position[1])
    else:
        changed = Solid(**{**asdict(solid), **given})
    return replace(scene, solids=(*scene.solids[:index], changed, *scene.solids[index + 1 :]))


def remove(scene: Scene, index: int) -> Scene:
    """The same scene without solid `index`; raises DataError when it is not there."""
    _solid_at(scene, index)
    return replace(scene, solids=scene.solids[:index] + scene.solids[index + 1 :])


def sample_attributes(rng: np.random.Generator, shapes: tuple[str, ...], colours: tuple[str, ...]) -> Solid:
    """A solid with uniformly drawn attributes, at the origin."""
    return Solid(
        shape=shapes[rng.integers(len(shapes))],
        colour=colours[rng.integers(len(colours))],
        size=tuple(SIZES)[rng.integers(len(SIZES))],
        material=MATERIALS[rng.integers(len(MATERIALS))],
        x=0.0,
        z=0.0,
    )


def _solid_at(scene: Scene, index: int) -> Solid:
    if not 0 <= index < len(scene.solids):
        raise DataError(f"solid {index} does not exist: the scene has {len(scene.solids)}, counted from 0")
    return scene.solids[index]


def _known(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DataError(f"unknown {what} {value!r}\n  expected one of: {', '.join(allowed)}")
