from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from velatura.recipe.dump import dump_recipe
from velatura.recipe.plain_toml import toml_value
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import parse_recipe

# all that a TOML text can hold: unicode without surrogates
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0~"), min_size=1, max_size=30)
positive = st.floats(min_value=1e-300, max_value=1e300)
shares = st.floats(min_value=0, max_value=0.99)


def some(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


def with_fixed(fixed: dict[str, Any], **keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return some(**keys).map(lambda chosen: fixed | chosen)


shared = {
    "resolution": st.integers(16, 2048) | st.lists(st.integers(16, 2048), min_size=1, max_size=4),
    "repeats": st.integers(1, 2**70),
    "weight": positive,
    "trigger": texts,
    "flip": st.floats(0, 1),
}
folders = some(**shared, recursive=st.booleans(), caption=texts).flatmap(
    lambda keys: texts.map(lambda folder: keys | {"folder": folder})
)
tables = some(**shared, caption_column=texts, folder=texts | st.lists(texts, min_size=1)).flatmap(
    lambda keys: texts.map(lambda file: keys | {"file": file, "kind": "table"})
)
data = folders | tables
recipes = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        "model": with_fixed({"family": "flux", "model": "pocket/flux"}, tokenizers=texts, guidance=positive),
        "data": st.lists(data, min_size=1, max_size=3),
        "adapter": some(
            rank=st.integers(1, 1024), alpha=positive, targets=texts | st.lists(texts, min_size=1)
        ),
        "objective": with_fixed({"kind": "flow"}, shift=positive, caption_dropout=shares),
    },
    optional={
        "seed": st.integers(0, 2**63 - 1),
        "optimizer": some(
            learning_rate=st.floats(1e-300, 1000), betas=st.lists(shares, min_size=2, max_size=2)
        ),
        "training": some(steps=st.integers(1, 10**9), compile=st.sampled_from(["auto", True, False])),
        "ema": some(decay=st.floats(0.01, 0.99)),
        "previews": some(prompts=st.lists(texts, max_size=3), negative=texts),
    },
).map(Recipe.model_validate)


@settings(deadline=None)
@given(recipes, st.booleans())
def test_a_dumped_recipe_reads_back_as_it_was(recipe: Recipe, comments: bool) -> None:
    text = dump_recipe(recipe, comments=comments)
    assert parse_recipe(text) == recipe
    assert dump_recipe(parse_recipe(text), comments=comments) == text


@given(
    st.recursive(st.integers() | st.floats(allow_nan=False) | texts | st.booleans(), st.lists, max_leaves=8)
)
def test_values_read_back(value: Any) -> None:
    assert tomllib.loads(f"value = {toml_value(value)}")["value"] == value


def test_defaults_are_filled_in(smallest: str) -> None:
    table = tomllib.loads(dump_recipe(parse_recipe(smallest)))
    assert table["model"]["family"] == "flux"
    assert table["objective"]["timesteps"] == "flux_shift"
    assert table["optimizer"]["betas"] == [0.9, 0.999]
    assert table["data"][0]["buckets"] is True
    assert "ema" not in table


def test_comments_say_what_is_allowed(smallest: str) -> None:
    text = dump_recipe(parse_recipe(smallest), comments=True)
    assert "# Optimizer steps. (an integer, at least 1)\nsteps = 1000\n" in text
    assert max(len(line) for line in text.splitlines()) <= 110
