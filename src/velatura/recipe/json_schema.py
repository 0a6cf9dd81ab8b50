"""The JSON schema of a recipe as a user may write it, for editors that complete and check TOML."""

from __future__ import annotations

from typing import Any

from velatura.recipe.recipe import Recipe


def recipe_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12). What the loader fills in, families, kinds and the objective, may be left out."""
    schema = Recipe.model_json_schema()
    schema["required"] = [name for name in schema["required"] if name != "objective"]
    properties = schema["properties"]
    properties["memory"] = {"anyOf": [properties["memory"], {"type": "string"}]}  # short for its budget
    for section in (properties["model"], properties["objective"], properties["data"]["items"]):
        section["anyOf"] = section.pop("oneOf")  # without its tag a table may fit several kinds
        section.pop("discriminator")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Velatura recipe",
    }
