from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from velatura.errors import RecipeError
from velatura.recipe.overrides import BadOverride, parse_override
from velatura.recipe.toml import parse_recipe

Refusal = Callable[..., str]


@pytest.mark.parametrize(
    ("option", "path", "value"),
    [
        ("training.steps=200", ("training", "steps"), 200),
        ("optimizer.learning_rate=2e-4", ("optimizer", "learning_rate"), 2e-4),
        ("training.compile=false", ("training", "compile"), False),
        ("optimizer.schedule=constant", ("optimizer", "schedule"), "constant"),
        ('previews.prompts=["a = b", "c"]', ("previews", "prompts"), ["a = b", "c"]),
        ("data.0.folder=/photos/a=b.c", ("data", 0, "folder"), "/photos/a=b.c"),
        ("name=2024-01-01", ("name",), "2024-01-01"),
        (" training . steps = 3 ", ("training", "steps"), 3),
        ("previews.negative=", ("previews", "negative"), ""),
        ("data.0.folder='C:\\x'", ("data", 0, "folder"), "C:\\x"),
    ],
)
def test_reading(option: str, path: tuple[str | int, ...], value: Any) -> None:
    override = parse_override(option)
    assert (override.path, override.value) == (path, value)
    assert type(override.value) is type(value)


@pytest.mark.parametrize(
    "option", ["training.steps", "=3", "training..steps=3", "training.steps=[1", 'name="a']
)
def test_what_cannot_be_read(option: str) -> None:
    with pytest.raises(BadOverride):
        parse_override(option)


def test_values_reach_the_recipe(smallest: str) -> None:
    sets = [
        "training.steps=200",
        "ema.decay=0.99",
        "data.0.repeats=3",
        "adapter.targets.0=mlp",
        "adapter.targets.1=mlp",
    ]
    text = smallest + 'targets = ["a", "b"]\n'
    recipe = parse_recipe(text, sets=sets)
    assert recipe.training.steps == 200
    assert recipe.ema is not None
    assert recipe.ema.decay == 0.99
    assert recipe.data[0].repeats == 3
    assert recipe.adapter is not None
    assert recipe.adapter.targets == ["mlp", "mlp"]


def test_the_last_one_wins(smallest: str) -> None:
    assert parse_recipe(smallest, sets=["seed=1", "seed=2"]).seed == 2


def test_a_text_may_look_like_a_number(smallest: str) -> None:
    recipe = parse_recipe(smallest, sets=["name=7", "data.0.caption=1e3", "previews.negative=true"])
    assert (recipe.name, recipe.data[0].caption, recipe.previews.negative) == ("7", "1e3", "true")


@pytest.mark.parametrize(
    ("option", "where", "what"),
    [
        ("training.stps=3", "--set training.stps=3: [training] stps", "did you mean steps?"),
        ("trainin.steps=3", "--set trainin.steps=3: trainin", "did you mean training?"),
        (
            "training.steps=many",
            "--set training.steps=many: [training] steps",
            'the text "many"; allowed: an integer',
        ),
        ("steps=3", "--set steps=3: steps", "steps belongs in [training]"),
        ("data.1.folder=x", "[[data]] number 2", "received entry 1; allowed: 0 to 0"),
        ("data.folder=x", "--set data.folder=x: [data] folder", "for example data.0.folder=…"),
        ("name.first=x", "name.first", "points into a single value"),
        ("training.0=3", "[training]", "points into a section"),
        ("nonsense", "nonsense", "allowed: section.key=value"),
    ],
)
def test_mistakes_name_the_option(
    smallest: str, refusal: Refusal, option: str, where: str, what: str
) -> None:
    message = refusal(smallest, option)
    assert where in message
    assert what in message


def test_a_mistake_in_the_file_can_be_overridden(smallest: str) -> None:
    text = smallest + "[training]\nsteps = 'many'\n"
    assert parse_recipe(text, sets=["training.steps=3"]).training.steps == 3


@pytest.mark.parametrize("option", ["seed=" + "9" * 5000, "seed=0x" + "F" * 5000, "seed=" + "[" * 5000])
def test_values_that_cannot_be_written_out(option: str) -> None:
    with pytest.raises(BadOverride) as caught:
        parse_override(option)
    assert len(str(caught.value)) < 6000


def test_an_entry_of_thousands_of_digits(refusal: Refusal, smallest: str) -> None:
    assert "is a list: say which entry" in refusal(smallest, "data." + "9" * 5000 + ".folder=x")


def test_what_is_very_long_is_not_repeated_with_every_mistake() -> None:
    sets = ["data.0.resolution=[512" + ",2" * 5000 + "]", "x" * 5000, "seed=[" + "1" * 5000]
    with pytest.raises(RecipeError) as caught:
        parse_recipe('name = "a"\n[model]\nmodel = "pocket/flux"\n[[data]]\nfolder = "x"', sets=sets)
    assert len(str(caught.value)) < 60_000
