"""Which layers an adapter sits on: groups by name, patterns over module paths, presets."""

from __future__ import annotations

import difflib
import fnmatch
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from velatura.errors import RecipeError
from velatura.interfaces import Target
from velatura.plural import counted

PRESETS: dict[str, tuple[str, ...]] = {
    "sd-scripts": ("attention", "mlp", "modulation"),  # every linear layer of the blocks: 304 modules on FLUX
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen targets, and for the report how many each word of the recipe chose."""

    targets: tuple[Target, ...]
    counts: dict[str, int]

    def report(self) -> str:
        """One line: what was adapted, with counts by group."""
        groups = Counter(target.group for target in self.targets)
        files = len({target.kohya for target in self.targets})
        parts = ", ".join(f"{count} {group}" for group, count in sorted(groups.items()))
        layers, modules = counted(len(self.targets), "linear layer"), counted(files, "module")
        return f"{layers} adapted ({parts}), {modules} in a kohya file"


def choose(available: Sequence[Target], wanted: Sequence[str] | str) -> Choice:
    """Targets named by groups, presets or `fnmatch` patterns over full module paths, in the family's order.

    Raises RecipeError where a word matches nothing.
    """
    words = [wanted] if isinstance(wanted, str) else list(wanted)
    groups = sorted({target.group for target in available})
    chosen: set[str] = set()
    counts: dict[str, int] = {}
    for word in words:
        names = PRESETS.get(word, (word,))
        matched = {t.module for t in available if t.group in names or fnmatch.fnmatchcase(t.module, word)}
        if not matched:
            raise RecipeError(_no_match(word, groups, available))
        chosen |= matched
        counts[word] = len(matched)
    return Choice(targets=tuple(t for t in available if t.module in chosen), counts=counts)


def _no_match(word: str, groups: list[str], available: Sequence[Target]) -> str:
    names = [*groups, *PRESETS, *(target.module for target in available)]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    return (
        f"adapter.targets: '{word}' matches no layer of this model{hint} "
        f"Allowed: the groups {', '.join(groups)}; the presets {', '.join(PRESETS)}; "
        f"or a pattern over module paths such as '{available[0].module.replace('.0.', '.*.', 1)}'."
    )
