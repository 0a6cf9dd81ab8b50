"""What is wrong with a recipe: every mistake with its place, gathered into one error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from velatura.errors import RecipeError
from velatura.plural import counted
from velatura.recipe.lines import KeyPath, nearest_line

SHOWN = 100  # mistakes in a message
LONGEST = 200  # characters of what was typed


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake. `path` leads to it: `("data", 1, "folder")`; `what` says what was received and what is allowed."""

    path: KeyPath
    what: str
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a recipe came from, so that a mistake can be found: a name, line numbers, and `--set` options."""

    name: str = "the recipe"
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    overrides: Mapping[KeyPath, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)  # "model": "[model]"

    def place(self, path: KeyPath) -> str:
        """A path as a user reads it: `[optimizer] learning_rate`, `[[data]] number 2, folder`, `[model]`, `name`."""
        match path:
            case (str(section), int(index), *rest):
                return f"[[{section}]] number {index + 1}" + (f", {_keys(rest)}" if rest else "")
            case (str(section), str(), *_):
                return f"[{section}] {_keys(path[1:])}"
            case (str(section),):
                return self.headers.get(section, section)
            case _:
                return _keys(path)

    def where(self, path: KeyPath) -> str:
        """`line 7`, `--set training.steps=x`, or nothing when the place is not in the file."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overrides:
                return f"--set {shown(self.overrides[path[:length]])}"
        if line := nearest_line(self.lines, path):
            return f"line {line}"
        inside = (option for place, option in self.overrides.items() if path and place[: len(path)] == path)
        return next((f"--set {shown(option)}" for option in inside), "")


class Inconsistent(ValueError):
    """Values that are right one by one and do not go together; raised by the schema's own validators."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.what for problem in problems))
        self.problems = tuple(problems)


class InvalidRecipe(RecipeError):
    """A recipe with mistakes: `problems` has all of them, the message lists them."""

    def __init__(self, problems: Sequence[Problem], source: Source) -> None:
        ordered = sorted(problems, key=lambda problem: _order(problem, source))
        head = f"{source.name} has {counted(len(ordered), 'mistake')}"
        more = [f"  and {len(ordered) - SHOWN} more"] if len(ordered) > SHOWN else []
        super().__init__("\n".join([head, *(_entry(p, source) for p in ordered[:SHOWN]), *more]))
        self.problems = tuple(ordered)
        self.source = source

    def record(self) -> list[dict[str, Any]]:
        """The mistakes as plain data for JSON."""
        return [
            {
                "place": self.source.place(p.path),
                "where": self.source.where(p.path),
                "what": p.what,
                "hint": p.hint,
            }
            for p in self.problems
        ]


def shown(typed: str) -> str:
    """What a user typed, as far as a message has room for it."""
    return typed if len(typed) <= LONGEST else f"{typed[:LONGEST]}…"


def _keys(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _order(problem: Problem, source: Source) -> tuple[int, str]:
    return nearest_line(source.lines, problem.path) or 0, str(problem.path)


def _entry(problem: Problem, source: Source) -> str:
    where = source.where(problem.path)
    head = ": ".join(part for part in (where, source.place(problem.path)) if part) or "--set"
    return "\n".join([f"  {head}", f"    {problem.what}", *([f"    {problem.hint}"] if problem.hint else [])])
