"""`velatura lora`: look into LoRA files, change their layout, put them into a model's weights."""

from __future__ import annotations

import typer

app = typer.Typer(name="lora", help="Look into, convert and merge LoRA files.", no_args_is_help=True)


@app.command()
def info() -> None:
    """x."""
