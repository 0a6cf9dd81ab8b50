"""The reference of all commands as Markdown: `python -m velatura.cli.reference > docs/reference/cli.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import typer

from velatura.cli.app import app

_INTRODUCTION = """\
# The command line

<!-- written by `make docs` from the command itself; do not edit -->

Exit codes: 0 finished; 2 a mistake in a recipe, an option, the data or a model's files; 3 a memory budget that
cannot be met; 75 stopped and saved, so that `--resume` goes on; 130 interrupted; 1 anything else. Errors go
to standard error, results to standard output.
"""
_WIDTH = 100


def cli_reference() -> str:
    """The whole page: the help of every command, as the command prints it."""
    command = typer.main.get_command(app)
    sections = [f"## `{name}`\n\n```text\n{text}\n```\n" for name, text in _helps(command, "velatura")]
    return "\n".join([_INTRODUCTION, *sections])


def _helps(command: Any, name: str, parent: Any = None) -> Iterator[tuple[str, str]]:
    context = command.make_context(
        name.split()[-1],
        [],
        parent=parent,
        resilient_parsing=True,
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
    )
    yield name, "\n".join(line.rstrip() for line in command.get_help(context).strip().split("\n"))
    for word, child in getattr(command, "commands", {}).items():
        yield from _helps(child, f"{name} {word}", context)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    sys.stdout.write(cli_reference())
