"""Folders of pocket pictures: `000123.png` with `000123.txt`, `scenes.jsonl`, and the truth beside them.

Item `index` depends on the seed and the index alone, never on workers or on what was there before. An item is
complete when its caption exists, since that is written last; a run that was stopped goes on from there.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

import numpy as np
from PIL import Image

from velatura.errors import DataError
from velatura.pocket.captions import LEAVE_OUT, caption, caption_full
from velatura.pocket.layout import place, sample_scene
from velatura.pocket.renderer import Truth, draw, measure
from velatura.pocket.scenes import (
    COLOURS,
    CONCEPTS,
    LIGHTS,
    SHAPES,
    Scene,
    Split,
    held_out,
    sample_attributes,
)

Progress = Callable[[int, int], None]
T = TypeVar("T")
R = TypeVar("R")

CONCEPT_COLOURS: Final = ("red", "yellow", "green", "blue", "pink")
"""Colours that a concept is shown in; orange, purple and white are left for asking what was never seen."""
DEPTH_UNIT: Final = 0.001
"""Metres per step of the 16-bit depth pictures."""

_SCENE, _WORDS = 0, 1


class Source(Protocol):
    """Where a dataset's scenes come from; it is sent to worker processes."""

    def scene(self, index: int) -> Scene:
        """The scene of an item."""
        ...

    def text(self, index: int, scene: Scene) -> str:
        """The caption of an item."""
        ...


@dataclass(frozen=True, kw_only=True)
class WorldSource:
    """Ordinary scenes of `solids` solids (None: one to three), varied captions; held-out ones name everything."""

    seed: int
    split: Split
    solids: int | None = None

    def scene(self, index: int) -> Scene:
        return sample_scene(np.random.default_rng([self.seed, index, _SCENE]), self.solids, self.split)

    def text(self, index: int, scene: Scene) -> str:
        leave_out = LEAVE_OUT if self.split == "train" else 0.0
        return caption(scene, np.random.default_rng([self.seed, index, _WORDS]), leave_out)


@dataclass(frozen=True, kw_only=True)
class ConceptSource:
    """Scenes with one concept, alone or (one in four) beside an ordinary solid, with canonical captions."""

    seed: int
    concept: str

    def scene(self, index: int) -> Scene:
        rng = np.random.default_rng([self.seed, index, _SCENE])
        light = LIGHTS[index % len(LIGHTS)]
        while True:
            thing = sample_attributes(rng, (self.concept,), CONCEPT_COLOURS)
            thing = replace(thing, colour=CONCEPT_COLOURS[index % len(CONCEPT_COLOURS)])
            beside = (sample_attributes(rng, SHAPES, tuple(COLOURS)),) if index % 4 == 1 else ()
            placed = place(rng, (thing, *beside), light)
            if placed is not None and not held_out(placed):
                return placed

    def text(self, index: int, scene: Scene) -> str:
        return caption_full(scene)


def write_dataset(
    folder: Path,
    count: int,
    seed: int,
    size: int = 96,
    split: Split = "train",
    workers: int = 1,
    with_truth: bool = False,
    progress: Progress | None = None,
    solids: int | None = None,
) -> None:
    """Write `count` items of size x size pixels, each of `solids` solids (None: one to three).

    Complete items that are there already are kept.

    With `with_truth`: `truth/depth` (16-bit PNG, millimetres along the camera's axis), `truth/normals` (8-bit PNG,
    (n + 1) / 2, camera frame: x right, y up, z to the viewer), `truth/masks` (8-bit PNG, 0 = table, k = solid k
    from the left) and `truth/edges` (1-bit PNG). Raises DataError when the folder holds a dataset of
    another seed, split, size or number of solids.
    """
    source = WorldSource(seed=seed, split=split, solids=solids)
    write_items(folder, source, count, size, workers, with_truth, progress)


def concept_dataset(
    folder: Path,
    concept: str = "snowman",
    count: int = 16,
    seed: int = 0,
    size: int = 96,
    progress: Progress | None = None,
) -> None:
    """Write the small set that teaches a concept, in CONCEPT_COLOURS only; raises DataError for an unknown concept."""
    if concept not in CONCEPTS:
        raise DataError(f"unknown concept {concept!r}\n  expected one of: {', '.join(CONCEPTS)}")
    write_items(folder, ConceptSource(seed=seed, concept=concept), count, size, progress=progress)


def write_items(
    folder: Path,
    source: Source,
    count: int,
    size: int,
    workers: int = 1,
    with_truth: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the items 0 .. count - 1 of any source into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_other_size(folder, size)
    scenes = list(_map(source.scene, range(count), workers))
    _write_scenes(folder / "scenes.jsonl", scenes)
    tasks = [
        _Task(
            folder=folder,
            index=index,
            scene=scene,
            text=source.text(index, scene),
            size=size,
            truth=with_truth,
        )
        for index, scene in enumerate(scenes)
        if not _complete(folder, index, with_truth)
    ]
    there = count - len(tasks)
    for done, _ in enumerate(_map(_write_item, tasks, workers), start=there + 1):
        if progress is not None:
            progress(done, count)


@dataclass(frozen=True, kw_only=True)
class _Task:
    folder: Path
    index: int
    scene: Scene
    text: str
    size: int
    truth: bool


def _map(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterable[R]:
    """Results in the order of the items, from spawned workers where more than one is asked for."""
    if workers <= 1 or len(items) < 2:
        yield from map(function, items)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(function, items, chunksize=32)


def _write_item(task: _Task) -> None:
    name = f"{task.index:06d}"
    if task.truth:
        _write_truth(task.folder / "truth", name, measure(task.scene, task.size))
    _save(Image.fromarray(draw(task.scene, task.size)), task.folder / f"{name}.png")
    _replace(task.folder / f"{name}.txt", (task.text + "\n").encode())


def _write_truth(folder: Path, name: str, truth: Truth) -> None:
    numbers = np.arange(1, len(truth.masks) + 1)[:, None, None]
    masks = (truth.masks * numbers).sum(0).astype(np.uint8)
    pictures = {
        "depth": Image.fromarray(np.round(truth.depth / DEPTH_UNIT).astype(np.uint16)),
        "normals": Image.fromarray(np.round((truth.normals + 1) * 127.5).astype(np.uint8)),
        "masks": Image.fromarray(masks),
        "edges": Image.fromarray(truth.edges),
    }
    for kind, picture in pictures.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        _save(picture, folder / kind / f"{name}.png")


def _complete(folder: Path, index: int, with_truth: bool) -> bool:
    name = f"{index:06d}"
    truth = not with_truth or (folder / "truth" / "edges" / f"{name}.png").exists()
    return (folder / f"{name}.txt").exists() and (folder / f"{name}.png").exists() and truth


def _write_scenes(path: Path, scenes: list[Scene]) -> None:
    """Write scenes.jsonl, unless the folder's first scenes are others: then it is another dataset."""
    lines = [scene.to_json() for scene in scenes]
    if path.exists():
        there = path.read_text(encoding="utf-8").splitlines()
        if there[: len(lines)] != lines[: len(there)]:
            raise DataError(
                f"{path.parent} holds a pocket dataset of another seed, split or number of solids\n"
                "  choose another folder"
            )
        if len(there) > len(lines):
            return
    _replace(path, ("\n".join(lines) + "\n").encode())


def _refuse_other_size(folder: Path, size: int) -> None:
    first = folder / "000000.png"
    if not first.exists():
        return
    with Image.open(first) as picture:
        if picture.size != (size, size):
            raise DataError(
                f"{folder} holds pictures of {picture.size[0]} pixels, not {size}\n  choose another folder"
            )


def _save(picture: Image.Image, path: Path) -> None:
    partial = path.with_suffix(".partial")
    picture.save(partial, format="PNG", compress_level=6)
    os.replace(partial, path)


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
