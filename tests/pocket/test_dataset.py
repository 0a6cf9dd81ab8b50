from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from velatura.errors import DataError
from velatura.pocket.captions import parse
from velatura.pocket.dataset import CONCEPT_COLOURS, DEPTH_UNIT, concept_dataset, write_dataset
from velatura.pocket.renderer import measure
from velatura.pocket.scenes import Scene, held_out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def scenes(folder: Path) -> list[Scene]:
    return [Scene.from_json(line) for line in (folder / "scenes.jsonl").read_text().splitlines()]


def test_items_do_not_depend_on_workers_or_on_count(tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", count=8, seed=3, size=32)
    write_dataset(tmp_path / "two", count=8, seed=3, size=32, workers=2)
    write_dataset(tmp_path / "few", count=3, seed=3, size=32)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(contents(tmp_path / "one"))[:3] == ["000000.png", "000000.txt", "000001.png"]
    for name, content in contents(tmp_path / "few").items():
        if name != "scenes.jsonl":
            assert content == contents(tmp_path / "one")[name]


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    write_dataset(tmp_path / "whole", count=6, seed=1, size=32)
    write_dataset(tmp_path / "stopped", count=4, seed=1, size=32)
    (tmp_path / "stopped" / "000002.txt").unlink()  # was being written
    (tmp_path / "stopped" / "000003.png").unlink()
    kept = (tmp_path / "stopped" / "000000.png").stat().st_mtime_ns
    calls: list[tuple[int, int]] = []
    write_dataset(tmp_path / "stopped", count=6, seed=1, size=32, progress=lambda *call: calls.append(call))
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert (tmp_path / "stopped" / "000000.png").stat().st_mtime_ns == kept
    assert calls == [(3, 6), (4, 6), (5, 6), (6, 6)]


def test_another_dataset_is_not_mixed_in(tmp_path: Path) -> None:
    write_dataset(tmp_path, count=2, seed=1, size=32)
    with pytest.raises(DataError, match="another seed, split"):
        write_dataset(tmp_path, count=2, seed=2, size=32)
    with pytest.raises(DataError, match="another seed, split"):
        write_dataset(tmp_path, count=4, seed=1, size=32, split="held-out")
    with pytest.raises(DataError, match="another seed, split or number of solids"):
        write_dataset(tmp_path, count=4, seed=1, size=32, solids=2)
    with pytest.raises(DataError, match="32 pixels, not 48"):
        write_dataset(tmp_path, count=4, seed=1, size=48)


@pytest.mark.parametrize("solids", [1, 2, 3])
def test_every_scene_has_as_many_solids_as_asked(tmp_path: Path, solids: int) -> None:
    write_dataset(tmp_path, count=6, seed=4, size=16, solids=solids)
    assert [len(scene.solids) for scene in scenes(tmp_path)] == [solids] * 6


def test_held_out_captions_name_everything_and_are_not_trained_on(tmp_path: Path) -> None:
    write_dataset(tmp_path, count=20, seed=5, size=16, split="held-out")
    assert all(held_out(scene) for scene in scenes(tmp_path))
    for index, scene in enumerate(scenes(tmp_path)):
        expectation = parse((tmp_path / f"{index:06d}.txt").read_text())
        assert expectation.light == scene.light
        assert [s.material for s in expectation.solids] == [s.material for s in scene.solids]
        assert [s.size for s in expectation.solids] == [s.size for s in scene.solids]


def test_truth_is_written_exactly(tmp_path: Path) -> None:
    write_dataset(tmp_path, count=3, seed=2, size=48, with_truth=True)
    for index, scene in enumerate(scenes(tmp_path)):
        truth = measure(scene, 48)

        def picture(kind: str, index: int = index) -> np.ndarray:
            return np.asarray(Image.open(tmp_path / "truth" / kind / f"{index:06d}.png"))

        assert np.abs(picture("depth") * DEPTH_UNIT - truth.depth).max() <= 0.51 * DEPTH_UNIT
        assert np.abs(picture("normals") / 127.5 - 1 - truth.normals).max() <= 0.51 / 127.5
        assert np.array_equal(picture("edges"), truth.edges)
        masks = picture("masks")
        for number, mask in enumerate(truth.masks, start=1):
            assert np.array_equal(masks == number, mask)


def test_the_concept_set(tmp_path: Path) -> None:
    concept_dataset(tmp_path, "snowman", count=15, seed=0, size=32)
    there = scenes(tmp_path)
    snowmen = [solid for scene in there for solid in scene.solids if solid.shape == "snowman"]
    assert len(snowmen) == 15
    assert {solid.colour for solid in snowmen} == set(CONCEPT_COLOURS)
    assert {scene.light for scene in there} == {"noon", "dusk", "night"}
    assert {len(scene.solids) for scene in there} == {1, 2}
    for index, scene in enumerate(there):
        assert [s.shape for s in parse((tmp_path / f"{index:06d}.txt").read_text()).solids] == [
            s.shape for s in scene.solids
        ]


def test_an_unknown_concept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="snowman, mushroom"):
        concept_dataset(tmp_path, "unicorn")
