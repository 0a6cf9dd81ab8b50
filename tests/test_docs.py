"""What the docs say is so: recipes in them are valid, links lead somewhere, commands and options exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from velatura.cli.app import app
from velatura.cli.reference import cli_reference
from velatura.recipe.combinations import combinations
from velatura.recipe.reference import recipe_reference
from velatura.recipe.toml import parse_recipe

ROOT = Path(__file__).parent.parent
PAGES = [page for page in (*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))) if page.is_file()]
EXAMPLES = sorted((ROOT / "examples").rglob("*.toml"))
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|<img[^>]+src=\"([^\"]+)\"")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(*languages: str) -> Iterator[Any]:
    for page in PAGES:
        for number, block in enumerate(BLOCK.finditer(page.read_text("utf-8"))):
            if block[2] in languages:
                yield pytest.param(block[3], id=f"{name(page)}-{number}")


def completed(text: str) -> str:
    """A piece of a recipe made whole, so that it can be checked."""
    table = tomllib.loads(text)
    top = "" if "name" in table else 'name = "x"\n'
    sections = {"model": '[model]\nmodel = "pocket/flux"\n', "data": '[[data]]\nfolder = "x"\n'}
    if "full" not in table:
        sections["adapter"] = "[adapter]\n"
    return top + text + "\n" + "\n".join(text for section, text in sections.items() if section not in table)


@pytest.mark.parametrize("text", list(blocks("toml")))
def test_recipes_in_the_docs_are_valid(text: str) -> None:
    parse_recipe(completed(text))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text("utf-8"))
    for found in LINK.finditer(text):
        target, _, anchor = (found[1] or found[2]).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = page.parent / unquote(target) if target else page
        assert file.exists(), f"{target} is not there"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{target}#{anchor} is not there"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def commands() -> Iterator[Any]:
    for block in blocks("sh", "bash", "console"):
        text = re.sub(r"\\\n", " ", block.values[0])
        for number, line in enumerate(text.splitlines()):
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["velatura"]:
                yield pytest.param(words[1:], id=f"{block.id}-{number}")


@pytest.mark.parametrize("words", list(commands()))
def test_commands_in_the_docs_exist(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    if hasattr(command, "commands"):
        assert not words or words[0].startswith("-"), f"no command {words[0]}"
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert used <= known


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_examples_are_valid_and_begin_with_their_command(path: Path) -> None:
    text = path.read_text("utf-8")
    parse_recipe(text, name(path), base=path.parent)
    assert text.startswith(f"# velatura train {name(path)}\n")


@pytest.mark.parametrize(
    ("page", "text"),
    [("recipe.md", recipe_reference), ("cli.md", cli_reference), ("combinations.md", combinations)],
    ids=["recipe", "cli", "combinations"],
)
def test_the_reference_is_up_to_date(page: str, text: Any) -> None:
    file = ROOT / "docs" / "reference" / page
    assert file.read_text("utf-8") == text(), f"{page} is old: run `make docs`"


@pytest.mark.slow
def test_the_table_of_plans_is_up_to_date() -> None:
    from velatura.planning.reference import reference

    file = ROOT / "docs" / "reference" / "plans.md"
    assert file.read_text("utf-8") == reference(), "plans.md is old: run `make docs`"
