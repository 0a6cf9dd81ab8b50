"""Wildcards in captions: `{red|blue}` stands for one of its words.

Choices may be nested and may be empty on one side; `{word}` is a choice of one. `{{` and `}}` are plain braces, and
where both readings are possible `}}` closes what was opened last. A brace without its partner stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Pick = Callable[[Sequence[str]], str]

_PIECES = re.compile(r"\{\{|[{}|]|[^{}|]+")


@dataclass(slots=True)
class _Open:
    """A choice that is not closed yet, or the text around all choices."""

    words: list[list[str]] = field(default_factory=lambda: [[]])  # each in pieces
    plain: int = 0  # plain braces that are open inside it

    def add(self, piece: str) -> None:
        self.words[-1].append(piece)

    def joined(self) -> list[str]:
        return ["".join(pieces) for pieces in self.words]


def choose(text: str, pick: Pick) -> str:
    """The text with `pick(words)` in place of each choice, from the inside out and from left to right."""
    pieces = _PIECES.findall(text)
    stack = [_Open()]
    position = 0
    while position < len(pieces):
        piece = pieces[position]
        top = stack[-1]
        pair = piece == "}" and pieces[position + 1 : position + 2] == ["}"]
        position += 1
        if piece == "{{":
            top.add("{")
            top.plain += 1
        elif piece == "{":
            stack.append(_Open())
        elif piece == "|" and len(stack) > 1:
            top.words.append([])
        elif pair and (top.plain or len(stack) == 1):
            top.add("}")
            top.plain = max(top.plain - 1, 0)
            position += 1
        elif piece == "}" and len(stack) > 1:
            stack.pop()
            stack[-1].add(pick(top.joined()))
        else:
            top.add(piece)
    while len(stack) > 1:  # never closed: plain text
        unclosed = stack.pop()
        stack[-1].add("{" + "|".join(unclosed.joined()))
    return stack[0].joined()[0]


def varies(text: str) -> bool:
    """Whether `choose` can give more than one text."""
    different = False

    def look(words: Sequence[str]) -> str:
        nonlocal different
        different = different or len(set(words)) > 1
        return words[0]

    choose(text, look)
    return different
