from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from velatura.errors import RecipeError
from velatura.recipe.recipe import Recipe
from velatura.recipe.schema import variants
from velatura.recipe.toml import load_recipe, parse_recipe

DESIGN = """
name = "my-dog"
seed = 1

[model]
family = "flux"
denoiser = "models/flux1-dev.safetensors"
autoencoder = "models/ae.safetensors"
text_encoders = ["models/clip_l.safetensors", "models/t5xxl_fp16.safetensors"]
tokenizers = "black-forest-labs/FLUX.1-dev"

[[data]]
folder = "photos/my-dog"
resolution = [512, 768, 1024]
repeats = 10

[adapter]
kind = "lora"
rank = 16
targets = ["attention", "mlp"]

[objective]
kind = "flow"
timesteps = "flux_shift"

[optimizer]
learning_rate = 1e-4
warmup_steps = 50

[training]
steps = 1500
accumulate = 4
compile = "auto"

[previews]
every = 250
prompts = ["a photo of my dog on the beach --w 1024 --h 768 --d 7"]
"""


def test_a_users_recipe_is_read() -> None:
    recipe = parse_recipe(DESIGN)
    assert recipe.model.family == "flux"
    assert recipe.model.text_encoders == ["models/clip_l.safetensors", "models/t5xxl_fp16.safetensors"]
    assert recipe.data[0].resolution == [512, 768, 1024]
    assert recipe.adapter is not None
    assert (recipe.adapter.rank, recipe.adapter.alpha) == (16, None)
    assert recipe.optimizer.learning_rate == 1e-4
    assert recipe.training.accumulate == 4


def test_what_may_be_left_out(smallest: str) -> None:
    recipe = parse_recipe(smallest)
    assert recipe.model.family == "flux"
    assert recipe.objective.kind == "flow"
    assert recipe.adapter is not None
    assert recipe.adapter.kind == "lora"


def test_objective_without_a_kind_is_the_familys_own(smallest: str) -> None:
    recipe = parse_recipe(smallest + '[objective]\ntimesteps = "sigmoid"\n')
    assert recipe.objective.kind == "flow"
    sd1 = smallest.replace('model = "pocket/flux"', 'family = "sd1"\nmodel = "a/b"')
    assert parse_recipe(sd1 + "[objective]\nmin_snr_gamma = 5\n").objective.kind == "diffusion"
    assert parse_recipe(sd1).objective.kind == "diffusion"


def test_an_autoencoder_alone_learns_to_reconstruct(smallest: str) -> None:
    text = smallest.replace("[adapter]", '[full]\nparts = ["autoencoder"]')
    assert parse_recipe(text).objective.kind == "autoencoder"


@pytest.mark.parametrize(
    ("pipeline", "family"), [("FluxPipeline", "flux"), ("StableDiffusionPipeline", "sd1")]
)
def test_family_is_told_by_a_diffusers_folder(
    tmp_path: Path, smallest: str, pipeline: str, family: str
) -> None:
    folder = tmp_path / "models" / "x"
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    (tmp_path / "photos").mkdir()
    path = tmp_path / "a.toml"
    path.write_text(smallest.replace("pocket/flux", "models/x"))
    assert load_recipe(path).recipe.model.family == family


@pytest.mark.parametrize("index", [None, "{", "[]", '{"_class_name": "KandinskyPipeline"}'])
def test_family_that_cannot_be_told_is_asked_for(tmp_path: Path, smallest: str, index: str | None) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    if index is not None:
        (folder / "model_index.json").write_text(index)
    path = tmp_path / "a.toml"
    path.write_text(smallest.replace("pocket/flux", "x"))
    with pytest.raises(
        RecipeError, match=r'\[model\] family\n.*model = "x" does not tell it.*"flux" or "sd1"'
    ):
        load_recipe(path)


def test_load_knows_where_relative_paths_start(tmp_path: Path, smallest: str) -> None:
    (tmp_path / "photos").mkdir()
    path = tmp_path / "a.toml"
    path.write_text(smallest)
    loaded = load_recipe(path, ["training.steps=7"])
    assert (loaded.path, loaded.base) == (path, tmp_path)
    assert loaded.recipe.training.steps == 7


@pytest.mark.parametrize("content", ["\ufeff", "\r\n"])
def test_windows_text_is_read(tmp_path: Path, smallest: str, content: str) -> None:
    (tmp_path / "photos").mkdir()
    path = tmp_path / "a.toml"
    text = content + smallest if content == "\ufeff" else smallest.replace("\n", content)
    path.write_bytes(text.encode("utf-8"))
    assert load_recipe(path).recipe.name == "a"


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b'name = "\xff\xfe"')
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe at .*velatura recipe new KIND"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ('name = "a"\nseed = one\n', "line 2: seed = one", "need quotes"),
        ('name = "a"\n\nfolder = "C:\\photos"\n', 'line 3: folder = "C:\\photos"', "backslash"),
        ('name = "a"\nname = "b"\n', 'line 2: name = "b"', "once"),
        ("[model]\n[model]\n", "line 2: [model]", "once"),
        ('name = "a', 'line 1: name = "a', ""),
        ("[" * 5000, "", ""),
    ],
)
def test_text_that_is_not_toml(text: str, line: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "x.toml")
    message = str(caught.value)
    assert message.startswith("x.toml")
    assert line in message
    assert hint in message
    assert caught.value.exit_code == 2


def test_no_optional_key_has_a_default_that_toml_cannot_say() -> None:
    # an absent key is read as the default, so None must be the default of every key that may be None
    for section in (Recipe, *(variant.section for variant in variants(Recipe))):
        for name, field in section.model_fields.items():
            if type(None) in get_args(field.annotation):
                assert field.default is None, (section, name)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("9" * 5000, "digits"),
        ("0x" + "F" * 5000, "an integer of more than 64 bits"),
        ("[" * 5000, "more than 32 tables and lists inside each other"),
        ("1\n" + "a." * 20_000 + "b = 1", "more than 32 tables and lists inside each other"),
        ("{" + "'a' . " * 20_000 + "b = 1}", "more than 32 tables and lists inside each other"),
        ("[" * 40 + "]" * 40, "more than 32 tables and lists inside each other"),
    ],
)
def test_values_that_cannot_be_written_out(value: str, message: str) -> None:
    with pytest.raises(RecipeError, match=f"the recipe is no recipe: .*{message}"):
        parse_recipe(f'name = "a"\nseed = {value}')


def test_keys_inside_keys_inside_keys() -> None:
    with pytest.raises(RecipeError, match="more than 32 tables"):
        parse_recipe("a." * 3000 + "b = 1")


def test_of_very_many_mistakes_the_first_ones_are_told() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("\n".join(f"key_{number} = 1" for number in range(500)))
    assert "and 40" in str(caught.value).splitlines()[-1]
    assert len(str(caught.value)) < 100_000
