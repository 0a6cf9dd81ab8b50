"""The reference of all recipe keys as Markdown: `python -m velatura.recipe.reference > docs/reference/recipe.md`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby

from velatura.recipe.plain_toml import toml_value
from velatura.recipe.recipe import Recipe
from velatura.recipe.schema import Variant, allowed, ordered_keys, sections_in, variants
from velatura.recipe.section import Section

_INTRODUCTION = """\
# The recipe

<!-- written by `make docs` from the schema; do not edit -->

A recipe is one TOML file that describes one run. It is strict: an unknown key or a wrong value is an error that names
the line, what was received, what is allowed and the nearest known key. `velatura recipe new KIND` prints a commented
starter, `velatura recipe check FILE` checks a recipe without loading a model, and
`velatura recipe check FILE --resolved` prints it with all defaults filled in.

Relative paths of models and data start at the recipe's own folder. On the command line,
`--set section.key=value` changes one value: `--set training.steps=200`, `--set data.0.repeats=5`.
"""


def recipe_reference() -> str:
    """The whole page."""
    top = [name for name, field in Recipe.model_fields.items() if not sections_in(field.annotation)]
    pages = [_INTRODUCTION, "## At the top\n", *_table(Recipe, top)]
    for _, kinds in groupby(variants(Recipe), key=lambda variant: variant.name):
        pages += _pages(list(kinds))
    return "\n".join(pages) + "\n"


def _pages(kinds: Sequence[Variant]) -> Iterator[str]:
    """A section, or each of its kinds; keys that all kinds share are described once, after them."""
    shared = _shared(kinds)
    every = f"every {kinds[0].tag[0]}" if kinds[0].tag else ""
    for kind in kinds:
        yield from ("", f"## `{kind.title}`", "", *_about(kind))
        own = [
            name for name in ordered_keys(kind.section) if name not in shared or _is_own(name, kind.section)
        ]
        yield from _table(kind.section, own)
        if shared:
            yield from ("", f"And all keys of [{every}](#{kind.name}-of-{every.replace(' ', '-')}).")
    if shared:
        yield from ("", f"## `{kinds[0].header}` of {every}", "", *_table(kinds[0].section, shared))


def _shared(kinds: Sequence[Variant]) -> list[str]:
    """The keys that several kinds have from a section class that they have in common."""
    if len(kinds) == 1:
        return []
    first, *others = (kind.section for kind in kinds)
    below = [base for base in first.__mro__ if base is not first and issubclass(base, Section)]
    base = next(base for base in below if all(issubclass(other, base) for other in others))
    return [name for name in ordered_keys(base) if name not in ("family", "kind")]


def _is_own(name: str, section: type[Section]) -> bool:
    """Whether a section declares a key itself, as one with another default."""
    return name in section.__annotations__


def _about(variant: Variant) -> Iterator[str]:
    yield (variant.section.__doc__ or "").strip().split("\n")[0]
    yield ""
    field = Recipe.model_fields[variant.name]
    if not field.is_required() and not field.default:
        yield "Optional."
        yield ""


def _table(section: type[Section], names: list[str] | None = None) -> Iterator[str]:
    yield "| key | default | allowed | meaning |"
    yield "|---|---|---|---|"
    for name in ordered_keys(section) if names is None else names:
        field = section.model_fields[name]
        if field.is_required():
            default = "required"
        elif field.default is None:
            default = "—"
        else:
            default = f"`{toml_value(field.default)}`"
        cells = [f"`{name}`", default, _plain(allowed(field)), _plain(field.description or "")]
        yield f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([|*<>\\^])", r"\\\1", text)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    sys.stdout.write(recipe_reference())
