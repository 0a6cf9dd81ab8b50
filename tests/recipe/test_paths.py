from __future__ import annotations

from pathlib import Path

import pytest

from velatura.errors import RecipeError
from velatura.recipe.paths import is_hub_id, missing_files, resolve
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
        f"line 12: [adapter] init_from\n    no such file: {tmp_path}/old.safetensors",
        f"--set validation.folder=held: [validation] folder\n    no such folder: {tmp_path}/held",
    ):
        assert expected in message


def test_models_of_the_package(tmp_path: Path, smallest: str) -> None:
    (tmp_path / "photos").mkdir()
    assert missing_files(parse_recipe(smallest), tmp_path) == []
    wrong = parse_recipe(smallest.replace('model = "pocket/flux"', 'family = "flux"\nmodel = "pocket/fluxx"'))
    assert 'received "pocket/fluxx"' in missing_files(wrong, tmp_path)[0].what
