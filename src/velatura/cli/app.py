"""The `velatura` command: its sub-commands, and how errors reach the user.

Nothing heavy is imported here or at the top of the sub-commands: `velatura --help` must stay quick. Each command
imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from velatura import __version__
from velatura.cli import cache, data, demo, generate, lora, pocket, recipe, train
from velatura.errors import VelaturaError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
BUG = 1
DISK_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)

app = typer.Typer(
    name="velatura",
    help="Teach image diffusion models something new, and paint with them.",
    epilog="A first look, without any download: velatura demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help takes a third of the time
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.add_typer(recipe.app, name="recipe")
app.command("train")(train.train)
app.add_typer(data.app, name="data")
app.add_typer(cache.app, name="cache")
app.command("generate")(generate.generate)
app.add_typer(lora.app, name="lora")
app.add_typer(pocket.app, name="pocket")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Errors meant for the user are told without a traceback."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="velatura")
    except SystemExit as stop:
        return _exit_code(stop)
    except VelaturaError as error:
        _tell(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        typer.secho("interrupted", fg=typer.colors.RED, err=True)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_REFUSES:
            _tell(f"{error.strerror}: {error.filename or 'the disk'}; free some space, or write elsewhere")
            return 1
        traceback.print_exc()
        typer.secho(
            "this is a bug in velatura; please report it with the lines above", fg=typer.colors.RED, err=True
        )
        return BUG
    return 0


def _tell(message: str) -> None:
    typer.secho("error: ", fg=typer.colors.RED, bold=True, err=True, nl=False)
    typer.echo(message, err=True)


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    return stop.code if isinstance(stop.code, int) else BUG


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Teach image diffusion models something new, and paint with them."""
    if version:
        typer.echo(f"velatura {__version__}")
        raise typer.Exit


if __name__ == "__main__":
    sys.exit(main())
