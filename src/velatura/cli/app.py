"""The `velatura` command: its sub-commands, and how errors reach the user.

Nothing heavy is imported here or at the top of the sub-commands: `velatura --help` must stay quick. Each command
imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import io
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from velatura import __version__
from velatura.cli import cache, data, demo, doctor, generate, lora, plan, pocket, recipe, runs, train
from velatura.cli.console import echo
from velatura.errors import VelaturaError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
BUG = 1
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_REFUSES = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR)

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
app.command("plan")(plan.plan)
app.command("train")(train.train)
app.add_typer(runs.app, name="runs")
app.add_typer(data.app, name="data")
app.add_typer(cache.app, name="cache")
app.command("generate")(generate.generate)
app.add_typer(lora.app, name="lora")
app.add_typer(pocket.app, name="pocket")
app.command("doctor")(doctor.doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Errors meant for the user are told without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=None if arguments is None else list(arguments), prog_name="velatura")
    except SystemExit as stop:
        code = _exit_code(stop)
        if code == INTERRUPTED:  # typer's answer to Ctrl-C within a command, which it gives without a word
            _tell_interrupted()
        return code
    except VelaturaError as error:
        _tell(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _tell_interrupted()
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (*DISK_FULL, *DISK_REFUSES):
            full = error.errno in DISK_FULL
            remedy = (
                "free some space, or write elsewhere" if full else "give another path, or the right to use it"
            )
            _tell(f"{error.strerror}: {error.filename or 'the disk'}; {remedy}")
            return 1
        traceback.print_exc()
        echo(
            "this is a bug in velatura; please report it with the lines above",
            colour=typer.colors.RED,
            err=True,
        )
        return BUG
    return 0


def _tell(message: str) -> None:
    echo("error: ", colour=typer.colors.RED, bold=True, err=True, nl=False)
    echo(message, err=True)


def _tell_interrupted() -> None:
    echo("interrupted", colour=typer.colors.RED, err=True)


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
        echo(f"velatura {__version__}")
        raise typer.Exit


if __name__ == "__main__":
    sys.exit(main())
