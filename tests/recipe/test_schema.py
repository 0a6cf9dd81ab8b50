from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from pydantic.fields import FieldInfo

from velatura.recipe.data.sources.folder import FolderData
from velatura.recipe.data.sources.table import TableData
from velatura.recipe.json_schema import recipe_schema
from velatura.recipe.recipe import Recipe
from velatura.recipe.schema import allowed, listing, ordered_keys, received, variants
from velatura.recipe.section import Section
from velatura.recipe.toml import parse_recipe


@pytest.mark.parametrize(
    ("annotation", "field", "phrase"),
    [
        (int, Field(ge=1, le=5), "an integer, at least 1, at most 5"),
        (float | None, Field(None, gt=0), "a number, more than 0"),
        (Literal["a", "b"], Field("a"), '"a" or "b"'),
        (list[str] | str, Field("a"), "a list of texts, or text"),
        (bool | Literal["auto"], Field("auto"), 'true or false, or "auto"'),
        (list[Annotated[int, Field(ge=16)]], Field([], min_length=1), "a list of integers (each at least 16), at least 1 of them"),
        (list[Literal["a", "b", "c"]], Field([]), 'a list of "a", "b" or "c"'),
        (str, Field("a", examples=["x"]), 'text, for example "x"'),
    ],
)  # fmt: skip
def test_phrases(annotation: Any, field: FieldInfo, phrase: str) -> None:
    assert allowed(FieldInfo.from_annotated_attribute(annotation, field)) == phrase


def test_received() -> None:
    assert [received(value) for value in (True, 3, 0.5, "a\nb", {}, [1])] == [
        "true", "the integer 3", "the number 0.5", 'the text "a b"', "a table", "the list [1]",
    ]  # fmt: skip
    assert listing(["a"]) == '"a"'


def sections() -> list[type[Section]]:
    return [Recipe, *(variant.section for variant in variants(Recipe))]


@pytest.mark.parametrize("section", sections())
def test_every_key_is_described_and_has_words_for_what_it_allows(section: type[Section]) -> None:
    assert section.__doc__
    for name, field in section.model_fields.items():
        assert allowed(field)
        if section is not Recipe or name in ("name", "seed"):
            assert field.description, name
            assert field.description.endswith("."), name


def test_titles() -> None:
    titles = [variant.title for variant in variants(Recipe)]
    assert titles[:4] == [
        '[model] family = "flux"', '[model] family = "sd1"', '[[data]] kind = "folder"', '[[data]] kind = "table"',
    ]  # fmt: skip
    assert "[adapter]" in titles


def test_what_chooses_and_what_must_be_given_comes_first() -> None:
    assert ordered_keys(FolderData)[:2] == ["kind", "folder"]
    assert ordered_keys(TableData)[:2] == ["kind", "file"]


def test_json_schema_lets_out_what_the_loader_fills_in(smallest: str) -> None:
    schema = recipe_schema()
    assert schema["required"] == ["name", "model", "data"]
    flux = schema["$defs"]["FluxModel"]
    assert flux["additionalProperties"] is False
    assert "family" not in flux.get("required", [])
    kinds = schema["properties"]["data"]["items"]
    assert {"$ref": "#/$defs/TableData"} in kinds["anyOf"]
    assert "discriminator" not in kinds
    assert "kind" not in schema["$defs"]["TableData"]["required"]
    assert parse_recipe(smallest).objective.kind == "flow"  # and the loader does fill it in
