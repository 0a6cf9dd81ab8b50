"""`velatura lora`: look into LoRA files, change their layout, put them into a model's weights."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from velatura.cli.console import echo, one_line
from velatura.cli.generate import ModelRecipe, parse_lora
from velatura.errors import RecipeError
from velatura.plural import counted

if TYPE_CHECKING:
    from velatura.checkpoints.lora_layer import LoraFile

app = typer.Typer(name="lora", help="Look into, convert and merge LoRA files.", no_args_is_help=True)

LoraPath = Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA file.", show_default=False)]
Dtype = Literal["bf16", "fp16", "fp32"]


@app.command()
def info(
    file: LoraPath,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON, with all metadata.")] = False,
) -> None:
    """Say what is in a LoRA file: format, layers, ranks, size, metadata."""
    from velatura.checkpoints.lora_file import read_lora

    facts = summary(read_lora(file), file)
    if as_json:
        echo(json.dumps(facts, indent=2))
        return
    ranks = ", ".join(str(rank) for rank in facts["ranks"])
    echo(f"{file}: {facts['format']} keys, rank {ranks}, {facts['dtype']}")
    echo(f"{facts['values'] / 1e6:.1f} million values, {facts['bytes'] / 1e6:.1f} MB")
    for part, patterns in facts["layers"].items():
        echo(f"{part}: {counted(sum(patterns.values()), 'layer')}")
        for pattern, count in patterns.items():
            echo(f"  {count:4d}  {pattern}")
    for key, value in facts["metadata"].items():
        echo(f"{one_line(key)}: {one_line(value if len(value) <= 80 else value[:79] + '…')}")


@app.command()
def convert(
    file: LoraPath,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The new file.", show_default=False)],
    to: Annotated[
        Literal["kohya", "diffusers", "comfy"],
        typer.Option("--to", help="The layout of its keys. kohya: ComfyUI, A1111; diffusers: PEFT."),
    ] = "kohya",
    dtype: Annotated[
        Dtype | None,
        typer.Option("--dtype", help="Of the values in the new file.", show_default="as they are"),
    ] = None,
) -> None:
    """Write a LoRA file in another tool's layout; its effect stays the same."""
    import torch

    from velatura.checkpoints.lora_file import read_lora, write_lora

    names = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    write_lora(out, read_lora(file), to, dtype=names[dtype] if dtype else None)
    echo(f"{out}: {to} keys")


@app.command()
def merge(
    loras: Annotated[list[str], typer.Argument(metavar="FILE:WEIGHT...", help="LoRAs and their strengths.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The new model.", show_default=False)],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="ID", help="A diffusers folder or a hub id.", show_default=False),
    ] = None,
    recipe: ModelRecipe = None,
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        typer.Option("--precision", help="Of the written weights; auto: as the model's files have them."),
    ] = "auto",
) -> None:
    """Put LoRAs into a model's weights for good, and write the model as a new folder."""
    if (model is None) == (recipe is None):
        raise RecipeError("which model? give one of --model ID and --recipe FILE")
    files = [parse_lora(text) for text in loras]

    from velatura.adapters.merging import merge_into
    from velatura.cli.generate import section_of
    from velatura.cli.progress import progress
    from velatura.events import Events

    section, base = section_of(recipe)
    with progress(sys.stderr) as listener:
        merge_into(
            section or model or "", files, out, base=base, precision=precision, events=Events(listener)
        )
    echo(f"{out}: {model or recipe} with {counted(len(files), 'LoRA')}")


def summary(lora: LoraFile, file: Path) -> dict[str, Any]:
    """What `info` prints, as plain data; a down projection that several layers share counts once."""
    tensors = {id(tensor): tensor for layer in lora.layers for tensor in (layer.down, layer.up)}.values()
    layers: dict[str, Counter[str]] = {}
    for layer in lora.layers:
        pattern = re.sub(r"(?<=[._])\d+(?=[._]|$)", "*", layer.module)
        layers.setdefault(layer.part, Counter())[pattern] += 1
    return {
        "file": str(file),
        "format": lora.format,
        "layout": lora.layout,
        "ranks": list(lora.ranks),
        "alphas": sorted({layer.alpha for layer in lora.layers}),
        "dtype": ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})),
        "values": sum(tensor.numel() for tensor in tensors),
        "bytes": file.stat().st_size,
        "layers": {part: dict(sorted(patterns.items())) for part, patterns in layers.items()},
        "metadata": dict(lora.metadata),
    }
