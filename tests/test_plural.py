"""Counts agree with their nouns, in every message of the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import velatura
from velatura.plural import agreeing, counted

FILES = sorted(Path(velatura.__file__).parent.rglob("*.py"))
NOUNS = (
    "images|pictures|captions|prompts|previews|files|layers|modules|blocks|weights|steps|tensors|names|mistakes|uses|"
    "tokens"
)
PLURAL = re.compile(rf" ((?!with|holds)[a-z-]+ )?({NOUNS})\b")
NO_COUNTS_OF_ONE = (  # sums, rates, and what is always several, or no count
    "detect.py: {config['num_single_layers']} blocks",
    "dry_run.py: {training.accumulate} images",
    "pairs.py: {what} files",
    "report.py: {images / seconds if seconds else 0} images",
    "sd1_keys.py: {stages} input blocks",
    "sd_scripts.py: {where} names",
    "text.py: {len(places)} files",
)


@pytest.mark.parametrize(
    ("count", "one", "many", "words"),
    [
        (0, "image", "", "0 images"),
        (1, "image", "", "1 image"),
        (2, "image", "", "2 images"),
        (12345, "image", "", "12,345 images"),
        (1, "image is", "images are", "1 image is"),
        (3, "pass", "passes", "3 passes"),
        (1.0, "step", "", "1 step"),
        (0.25, "step", "", "0.25 steps"),
    ],
)
def test_a_noun_agrees_with_its_count(count: float, one: str, many: str, words: str) -> None:
    assert counted(count, one, many) == words


def test_a_word_without_its_count() -> None:
    assert (agreeing(1, "it", "them"), agreeing(0, "it", "them")) == ("it", "them")


def bare_counts(path: Path) -> Iterator[str]:
    """`{number} images` in an f-string: a count whose noun is plural, whatever the number."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.JoinedStr):
            for value, after in pairwise(node.values):
                if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant):
                    found = PLURAL.match(str(after.value))
                    if found and not ast.unparse(value.value).startswith("counted("):
                        yield f"{path.name}: {{{ast.unparse(value.value)}}}{found[0]}"


def test_every_count_in_a_message_agrees_with_its_noun() -> None:
    found = {place for path in FILES for place in bare_counts(path)}
    assert found - set(NO_COUNTS_OF_ONE) == set(), "use velatura.plural.counted"
