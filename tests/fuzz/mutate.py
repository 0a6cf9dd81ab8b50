"""Sound files made unsound: by bytes, by lines and words, and by the branches of a JSON tree."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    64,
    127,
    128,
    255,
    256,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
)
TEXTS = (
    "", " ", "a", "0", "1", "-1", "true", "null", "NaN", "inf", "é", "𝕏", "\0", "\ud800", "\x1b[2J", "a\nb", "a,b", "{a|b}",
    "../x", "../../etc/passwd", "/etc/passwd", "C:\\x", "\\\\host\\x", "~", "~nobody-here/x", "file:///etc/passwd", ".",
    "..", "a/b", "x" * 300, "A" * 5000, "%s%n", "{}", "[]", "$HOME", "1e999", "9" * 5000, "1_000", "٣", "²",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0.5, -0.0, 1e308, float("nan"), float("inf"), [], {}, [[]], [None], {"a": 1}, [1, 2], "text", [""],
    int("9" * 400), *NUMBERS, *TEXTS,
)  # fmt: skip

Mutate = Callable[[Random, bytes], bytes]


def of_bytes(words: Sequence[bytes] = ()) -> Mutate:
    """One to eight changes at random places; `words` are what such files are made of."""

    def mutate(chance: Random, data: bytes) -> bytes:
        found = bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            _change(chance, found, words)
        return bytes(found)

    return mutate


def _change(chance: Random, data: bytearray, words: Sequence[bytes]) -> None:
    size = len(data)
    place, other = chance.randrange(size + 1), chance.randrange(size + 1)
    low, high = min(place, other), max(place, other)
    match chance.randrange(9):
        case 0 if size:
            data[place % size] ^= 1 << chance.randrange(8)
        case 1 if size:
            data[place % size] = chance.randrange(256)
        case 2:
            del data[place:]
        case 3:
            del data[low : min(high, low + chance.choice((1, 4, 16, 256)))]
        case 4:
            data[place:place] = chance.randbytes(chance.choice((1, 2, 4, 8)))
        case 5:
            data[other:other] = data[low : min(high, low + 512)]
        case 6:
            width = chance.choice((1, 2, 4, 8))
            number = chance.choice(NUMBERS) % 256**width
            data[place : place + width] = number.to_bytes(width, chance.choice(("little", "big")))
        case 7 if words:
            data[place : place + chance.choice((0, 1, 4))] = chance.choice(words)
        case _:
            data[low : low + 64] = bytes(min(64, max(0, size - low)))


def of_text(words: Sequence[str]) -> Mutate:
    """Changes by lines, words and characters, mostly still UTF-8."""

    def mutate(chance: Random, data: bytes) -> bytes:
        text = data.decode("utf-8", "surrogateescape")
        for _ in range(chance.choice((1, 1, 2, 3, 6))):
            text = _edited(chance, text, words)
        found = text.encode("utf-8", "surrogatepass" if chance.random() < 0.1 else "replace")
        return _encoded(chance, text, found)

    return mutate


def _encoded(chance: Random, text: str, data: bytes) -> bytes:
    match chance.randrange(40):
        case 0:
            return text.encode("utf-16", "replace")
        case 1:
            return b"\xef\xbb\xbf" + data
        case 2:
            return of_bytes()(chance, data)
        case _:
            return data


def _edited(chance: Random, text: str, words: Sequence[str]) -> str:
    lines = text.split("\n")
    line = chance.randrange(len(lines))
    place = chance.randrange(len(text) + 1)
    match chance.randrange(8):
        case 0:
            del lines[line]
        case 1:
            lines.insert(chance.randrange(len(lines) + 1), lines[line])
        case 2:
            other = chance.randrange(len(lines))
            lines[line], lines[other] = lines[other], lines[line]
        case 3:  # what stands behind a sign, as a value does
            sign = chance.choice("=:,|\t ")
            head, found, _ = lines[line].partition(sign)
            lines[line] = head + found + " " * (sign in "=:") + _word(chance, words)
        case 4:
            return text[:place] + _word(chance, words) + text[place:]
        case 5:
            return text[:place] + _word(chance, words) + text[place + chance.choice((1, 2, 8, 64)) :]
        case 6:
            return text[:place] + text[place + chance.choice((1, 2, 8, 64)) :]
        case _:
            piece = text[place : place + chance.choice((1, 2, 8))]
            return text[:place] + piece * chance.choice((2, 3, 50, 1500)) + text[place:]
    return "\n".join(lines)


def _word(chance: Random, words: Sequence[str]) -> str:
    if chance.random() < 0.7 and words:
        return chance.choice(words)
    return chance.choice((*TEXTS, *map(str, NUMBERS)))


def tree(chance: Random, document: Any, words: Sequence[str] = ()) -> Any:
    """A JSON tree with a few of its branches changed."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        document = _branch(chance, document, words, depth=0)
    return document


def _branch(chance: Random, node: Any, words: Sequence[str], depth: int) -> Any:
    """The node with one thing in or below it changed."""
    inside = (
        list(node) if isinstance(node, Mapping) else list(range(len(node))) if isinstance(node, list) else []
    )
    if inside and chance.random() < 0.85:
        found = dict(node) if isinstance(node, Mapping) else list(node)
        key = chance.choice(inside)
        _at(chance, found, key, words, depth)
        return found
    match chance.randrange(12):
        case 0:
            return [node]
        case 1:
            return {chance.choice((*words, *TEXTS)): node}
        case 2:
            return nested(chance, node)
        case 3 if words:
            return chance.choice(words)
        case 4 if isinstance(node, str):
            return of_text(words)(chance, node.encode("utf-8", "replace")).decode("utf-8", "replace")
        case 5 if isinstance(node, int | float):
            return node + chance.choice((-1, 1, 0.5)) if abs(node) < 1e300 else -node
        case _:
            return chance.choice(VALUES)


def _at(chance: Random, found: Any, key: Any, words: Sequence[str], depth: int) -> None:
    match chance.randrange(10):
        case 0:
            del found[key]
        case 1 if isinstance(found, dict):
            found[chance.choice((*words, *TEXTS))] = found[key]
        case 2 if isinstance(found, dict):
            found[chance.choice((*words, *TEXTS))] = found.pop(key)
        case 3 if isinstance(found, list):
            found.insert(key, found[key])
        case _:
            found[key] = _branch(chance, found[key], words, depth + 1)


def nested(chance: Random, node: Any) -> Any:
    """The node inside many lists, or many tables."""
    depth = chance.choice((3, 30, 300))
    key = chance.choice(("a", "caption", "image", None))
    for _ in range(depth):
        node = [node] if key is None else {key: node}
    return node


def of_json(words: Sequence[str] = ()) -> Mutate:
    """Changes to the tree, at times to its text as well."""
    by_text = of_text(
        [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            '"',
            "\\",
            "\\ud800",
            "[" * 2000,
            '{"a":' * 2000,
            "NaN",
            "9" * 5000,
            *words,
        ]
    )

    def mutate(chance: Random, data: bytes) -> bytes:
        if chance.random() < 0.25:
            return by_text(chance, data)
        return dumped(tree(chance, json.loads(data), words))

    return mutate


def dumped(document: Any) -> bytes:
    """The tree as JSON."""
    return json.dumps(document).encode()
