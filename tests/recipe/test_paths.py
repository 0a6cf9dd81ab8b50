from __future__ import annotations

from pathlib import Path

import pytest

from velatura.errors import RecipeError
from velatura.recipe.data.sources.folder import FolderData
from velatura.recipe.data.sources.table import TableData
from velatura.recipe.data.sources.webdataset import WebDatasetData
from velatura.recipe.paths import is_hub_id, missing_files, resolve, with_absolute_paths
from velatura.recipe.toml import load_recipe, parse_recipe


@pytest.mark.parametrize("text", ["black-forest-labs/FLUX.1-dev", "a/b", "org_1/x.y-z"])
def test_hub_ids(text: str) -> None:
    assert is_hub_id(text)


@pytest.mark.parametrize(
    "text",
    ["models/x.safetensors", "/a/b", "./a", "../a", "~/a", "a", "a/b/c", "pocket/flux", "a/X.CKPT", "a\\b"],
)
def test_what_is_no_hub_id(text: str) -> None:
    assert not is_hub_id(text)


def test_resolve(tmp_path: Path) -> None:
    assert resolve("a/../b", tmp_path) == tmp_path / "b"
    assert resolve(str(tmp_path / "x"), Path("elsewhere")) == tmp_path / "x"
    assert resolve("~/x", tmp_path) == Path.home() / "x"


def test_missing_files_are_named_with_where_they_were_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        'name = "a"\n[model]\nfamily = "flux"\ndenoiser = "m/flux.safetensors"\nautoencoder = "org/name"\n'
        'text_encoders = ["there.safetensors", "gone.safetensors"]\n'
        '[[data]]\nfolder = "photos"\n[[data]]\nfolder = "a.toml"\n[adapter]\ninit_from = "old.safetensors"\n'
    )
    (tmp_path / "there.safetensors").touch()
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, ["validation.folder=held"])
    message = str(caught.value)
    assert "6 mistakes" in message
    for expected in (
        f"line 4: [model] denoiser\n    no such file or folder: {tmp_path}/m/flux.safetensors",
        f"line 6: [model] text_encoders[1]\n    no such file or folder: {tmp_path}/gone.safetensors",
        f"line 8: [[data]] number 1, folder\n    no such folder: {tmp_path}/photos",
        f"line 10: [[data]] number 2, folder\n    is a file, and must be a folder: {tmp_path}/a.toml",
        f"line 12: [adapter] init_from\n    no such file or folder: {tmp_path}/old.safetensors",
        f"--set validation.folder=held: [validation] folder\n    no such folder: {tmp_path}/held",
    ):
        assert expected in message


@pytest.fixture
def several_kinds(smallest: str) -> str:
    return smallest + (
        '[[data]]\nfolder = "photos"\nreferences = "before"\nmasks = "masks/*_mask"\n'
        '[[data]]\nfile = "x.csv"\nfolder = ["one", "two"]\n[memory]\ncache_folder = "cache"\n'
    )


def test_what_kinds_of_data_name_is_looked_for(tmp_path: Path, several_kinds: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "x.csv").mkdir()
    (tmp_path / "one").mkdir()
    found = {problem.path: problem.what for problem in missing_files(parse_recipe(several_kinds), tmp_path)}
    assert found == {
        ("data", 1, "references"): f"no such folder: {tmp_path}/before",
        ("data", 1, "masks"): f"no such folder: {tmp_path}/masks",
        ("data", 2, "file"): f"is a folder, and must be a file: {tmp_path}/x.csv",
        ("data", 2, "folder", 1): f"no such folder: {tmp_path}/two",
    }


def test_absolute_paths(tmp_path: Path, several_kinds: str) -> None:
    recipe = with_absolute_paths(parse_recipe(several_kinds), tmp_path)
    folder, table = recipe.data[1], recipe.data[2]
    assert isinstance(folder, FolderData)
    assert isinstance(table, TableData)
    assert folder.references == str(tmp_path / "before")
    assert folder.masks == str(tmp_path / "masks/*_mask")
    assert (table.file, table.folder) == (
        str(tmp_path / "x.csv"),
        [str(tmp_path / "one"), str(tmp_path / "two")],
    )
    assert recipe.memory.cache_folder == str(tmp_path / "cache")
    assert recipe.model.model == "pocket/flux"
    assert recipe.output.folder == "runs"  # the exception: it starts at the working folder
    assert with_absolute_paths(recipe, Path("elsewhere")) == recipe


def test_hub_ids_stay_unless_there_is_such_a_folder(tmp_path: Path, smallest: str) -> None:
    text = smallest.replace(
        'model = "pocket/flux"', 'family = "flux"\nmodel = "org/name"\ntext_encoders = ["a/b"]'
    )
    model = with_absolute_paths(parse_recipe(text), tmp_path).model
    assert (model.model, model.text_encoders) == ("org/name", ["a/b"])
    (tmp_path / "org/name").mkdir(parents=True)
    assert with_absolute_paths(parse_recipe(text), tmp_path).model.model == str(tmp_path / "org/name")


def test_models_of_the_package(tmp_path: Path, smallest: str) -> None:
    (tmp_path / "photos").mkdir()
    assert missing_files(parse_recipe(smallest), tmp_path) == []
    wrong = parse_recipe(smallest.replace('model = "pocket/flux"', 'family = "flux"\nmodel = "pocket/fluxx"'))
    assert 'received "pocket/fluxx"' in missing_files(wrong, tmp_path)[0].what


@pytest.mark.parametrize("key", ["[model]\nmodel", "[[data]]\nfolder", "[memory]\ncache_folder"])
@pytest.mark.parametrize("text", ["a\\u0000b", "~there-is-no-such-user/x", "x" * 300, "a/" * 2000])
def test_texts_that_can_be_no_path(key: str, text: str) -> None:
    with pytest.raises(RecipeError, match="received a path|there is no user"):
        parse_recipe(f'name = "a"\n{key} = "{text}"')


def test_a_pattern_may_be_longer_than_a_name() -> None:
    text = "shards/{" + ",".join(f"{number:05}" for number in range(100)) + "}.tar"
    assert WebDatasetData(shards=text).shards == text
    with pytest.raises(ValueError, match="NUL"):
        WebDatasetData(shards="a\0*.tar")
