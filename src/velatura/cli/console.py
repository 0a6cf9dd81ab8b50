"""Text on the terminal. What comes from files may hold codes that recolour it, move in it or rename its window."""

from __future__ import annotations

import typer

REORDERING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they make a text look like another
CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
ESCAPES = str.maketrans(
    {sign: f"\\u{ord(sign):04x}" for sign in (*CONTROLS, *REORDERING) if sign not in "\n\t"}
)


def harmless(text: str) -> str:
    """The text with control characters as escapes of four hex digits, which JSON and TOML read as these characters."""
    return text.translate(ESCAPES)


def one_line(text: str) -> str:
    """The same, with line breaks as escapes too: a value cannot pretend to be the next line."""
    return harmless(text).replace("\n", "\\n")


def echo(
    text: str, *, colour: str | None = None, bold: bool = False, err: bool = False, nl: bool = True
) -> None:
    """Print a text that may be anybody's; all commands print by this."""
    typer.secho(harmless(text), fg=colour, bold=bold or None, err=err, nl=nl)
