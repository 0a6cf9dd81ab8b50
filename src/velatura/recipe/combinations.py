"""What combines with what as Markdown: `python -m velatura.recipe.combinations > docs/reference/combinations.md`."""

from __future__ import annotations

import sys

from velatura.recipe.capabilities import FEATURES, REFUSED
from velatura.recipe.features import Feature

_INTRODUCTION = """\
# What combines with what

<!-- written by `make docs` from the table that refuses recipes; do not edit -->

Features of a recipe that do not go together, and why. A recipe that has both is refused before anything is read, and
`velatura plan` offers no such pair. All other pairs of the features below go together: tests plan and train each of
them. Two values of one key, and features of `[adapter]` and of `[full]`, exclude each other without being listed. What
needs another key says so: `memory.offload_activations` wants blocks that are recomputed.
"""


def combinations() -> str:
    """The whole page."""
    rows = [
        f"| {_shown(one.first)} | {_shown(one.second)} | {one.reason}{f'; {one.hint}' if one.hint else ''} |"
        for one in REFUSED
    ]
    names = ", ".join(map(_shown, FEATURES))
    head = ["| this | does not go with | because |", "|---|---|---|"]
    return "\n".join([_INTRODUCTION, *head, *rows, "", f"All features of the table: {names}.", ""])


def _shown(feature: Feature) -> str:
    """The key as code, what of it is meant after it."""
    key, _, rest = feature.name.partition(" ")
    return f"`{key}` {rest}".rstrip() if "." in key or "[" in key else feature.name


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    sys.stdout.write(combinations())
