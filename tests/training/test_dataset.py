"""What training and validation read: sets of validation images, each with a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from velatura.errors import DataError
from velatura.training.dataset import Dataset, prepare_dataset

from ..tiny import Log, recipe, write_pictures
from .conftest import SIZES


def dataset(tmp_path: Path, model: Path, **sections: Any) -> Dataset:
    sections.setdefault("memory", {"cache_folder": str(tmp_path / "cache")})
    return prepare_dataset(recipe(tmp_path, model, **sections), tmp_path, 16, Log().events)


def names(found: Dataset) -> dict[str, list[str]]:
    return {name: sorted(entry.item.name for entry in entries) for name, entries in found.validations.items()}


def test_each_set_has_a_name(tmp_path: Path, photos: Path, tiny_model: Path) -> None:
    for name, seed in (("faces", 1), ("hands", 2)):
        write_pictures(tmp_path / name, SIZES[:2], seed=seed)
    sets = [{"name": name, "folder": str(tmp_path / name)} for name in ("faces", "hands")]
    found = dataset(
        tmp_path,
        tiny_model,
        validation={"share": 0.2, "training_share": 0.4},
        validation_sets=sets,
    )
    assert list(found.validations) == ["validation", "faces", "hands", "train-stabilized"]
    assert {name: len(entries) for name, entries in found.validations.items()} == {
        "validation": 1, "faces": 2, "hands": 2, "train-stabilized": 2,
    }  # fmt: skip
    trained = {entry.item.content for entry in found.entries}
    assert len(trained) == 5
    assert {entry.item.content for entry in found.validations["train-stabilized"]} < trained
    assert not {entry.item.content for entry in found.held_out} & trained
    assert len(found.held_out) == 5
    assert len(found.everything) == 5 + 5 + 2


def test_nothing_is_validated_unless_asked_for(tmp_path: Path, photos: Path, tiny_model: Path) -> None:
    assert dataset(tmp_path, tiny_model).validations == {}


def test_a_set_is_read_as_the_first_source_is(tmp_path: Path, photos: Path, tiny_model: Path) -> None:
    """Its caption files, sub-folders and size; not its masks, which are of other pictures."""
    (tmp_path / "masks").mkdir()
    for path in sorted(photos.glob("*.png")):
        (tmp_path / "masks" / path.name).write_bytes(path.read_bytes())
    write_pictures(tmp_path / "faces" / "old", SIZES[:1], captions=False, seed=1)
    (tmp_path / "faces" / "old" / "00.cap").write_text("a face")
    found = dataset(
        tmp_path,
        tiny_model,
        data={
            "caption_extension": [".txt", ".cap"], "recursive": True, "resolution": 32, "flip": 1.0,
            "masks": str(tmp_path / "masks"),
        },
        validation_sets=[{"name": "faces", "folder": str(tmp_path / "faces")}],
    )  # fmt: skip
    (entry,) = found.validations["faces"]
    assert (entry.item.caption.text, entry.bucket, entry.item.companions) == ("a face", (32, 32), {})
    assert entry.item.treatment.flip == 0


def test_a_set_beside_a_tree_of_everydream2(tmp_path: Path, tiny_model: Path) -> None:
    write_pictures(tmp_path / "input", SIZES[:2])
    write_pictures(tmp_path / "faces", SIZES[:1], captions=False, seed=1)
    (tmp_path / "faces" / "00.yaml").write_text("main_prompt: a face\ntags: [{tag: old}]")
    found = prepare_dataset(
        recipe(
            tmp_path,
            tiny_model,
            memory={"cache_folder": str(tmp_path / "cache")},
            validation_sets=[{"name": "faces", "folder": str(tmp_path / "faces")}],
        ).model_copy(update={"data": [everydream2(tmp_path / "input")]}),
        tmp_path,
        16,
        Log().events,
    )
    (entry,) = found.validations["faces"]
    assert (entry.item.caption.text, entry.item.caption.tags) == ("a face", (("old", 1.0),))


def everydream2(root: Path) -> Any:
    from velatura.recipe.data.sources.everydream2 import EveryDream2Data

    return EveryDream2Data(root=str(root), resolution=64)


def test_a_set_of_which_nothing_is_left_names_its_folder(
    tmp_path: Path, photos: Path, tiny_model: Path
) -> None:
    write_pictures(tmp_path / "faces", [(32, 32)], seed=1)
    sets = [{"name": "faces", "folder": str(tmp_path / "faces")}]
    with pytest.raises(DataError, match="validation images in '.*faces'"):
        dataset(tmp_path, tiny_model, data={"upscale": False}, validation_sets=sets)


@pytest.mark.parametrize("name", ["train", "validation", "train-stabilized", "faces"])
def test_a_name_that_another_loss_has(tmp_path: Path, tiny_model: Path, name: str) -> None:
    sets = [{"name": "faces", "folder": "a"}, {"name": name, "folder": "b"}]
    with pytest.raises(ValueError, match=f'received "{name}", which is the name of another loss'):
        recipe(tmp_path, tiny_model, validation_sets=sets)
