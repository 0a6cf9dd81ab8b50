"""`velatura generate`: a prompt becomes pictures."""

from __future__ import annotations

import json
import math
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from velatura.cli.console import echo
from velatura.errors import RecipeError

if TYPE_CHECKING:
    from velatura.recipe.families.files import ModelSection
    from velatura.sampling.generate import Picture
    from velatura.sampling.placing import Planner


def _option(name: str, meta: str, text: str, default: str | None = None) -> object:
    """An option whose default is None to the code, and `default` to the user."""
    return typer.Option(name, metavar=meta, help=text, show_default=default or False)


ModelRecipe = Annotated[
    Path | None,
    _option(
        "--recipe",
        "FILE",
        "Take the model of this recipe, which may be made of single files; in place of --model.",
    ),
]


def generate(
    out: Annotated[
        Path, _option("--out", "FILE.png", "Where the picture goes; several are numbered: NAME-000.png, …")
    ],
    prompt: Annotated[
        str | None, _option("--prompt", "TEXT", "What to paint; needed unless --like says it.")
    ] = None,
    model: Annotated[
        str | None,
        _option("--model", "ID", "pocket/flux, a diffusers folder or a hub id.", "pocket/flux"),
    ] = None,
    recipe: ModelRecipe = None,
    negative: Annotated[
        str | None, _option("--negative", "TEXT", "What not to paint; needs --cfg above 1.")
    ] = None,
    seed: Annotated[int | None, _option("--seed", "N", "Of the noise, 0 to 2^63 - 1.", "0")] = None,
    steps: Annotated[int | None, _option("--steps", "N", "Sampling steps, 1 to 1000.", "the model's")] = None,
    size: Annotated[
        str | None, _option("--size", "WxH", "In pixels.", "that of --image, or the model's")
    ] = None,
    guidance: Annotated[
        float | None, _option("--guidance", "X", "Distilled guidance, where the model has it.", "the model's")
    ] = None,
    cfg: Annotated[
        float | None, _option("--cfg", "X", "Classifier-free guidance; 1 is off.", "the model's")
    ] = None,
    lora: Annotated[
        list[str] | None,
        _option("--lora", "FILE:WEIGHT", "A LoRA and its strength, 1 if left out; may be repeated."),
    ] = None,
    image: Annotated[
        Path | None, _option("--image", "FILE", "Start from this picture instead of from noise.")
    ] = None,
    strength: Annotated[
        float | None,
        _option("--strength", "X", "How much of --image changes: above 0 (little) to 1 (all).", "1"),
    ] = None,
    like: Annotated[
        Path | None, _option("--like", "FILE.png", "Paint this picture again; other options change how.")
    ] = None,
    count: Annotated[
        int,
        typer.Option("--count", metavar="N", min=1, help="How many pictures, or batches, one after another."),
    ] = 1,
    batch: Annotated[
        int,
        typer.Option("--batch", metavar="N", min=1, help="How many pictures are painted at once, up to 64."),
    ] = 1,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="cuda, cuda:1, mps, cpu or auto.")
    ] = "auto",
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        typer.Option("--precision", help="Of the computation; auto: bf16 where it is native, else fp32."),
    ] = "auto",
    weights: Annotated[
        Literal["full", "fp8", "int8", "nf4"] | None,
        typer.Option(
            "--weights",
            metavar="full|fp8|int8|nf4",
            help="Of the denoiser. full: as --precision says; fp8 and int8: in 8 bits, half of bf16's memory, and "
            "int8 also multiplies in 8 bits; nf4: in 4 bits, less exact.",
            show_default="full",
        ),
    ] = None,
    autoencoder: Annotated[
        Literal["auto", "whole", "sliced", "tiled"] | None,
        typer.Option(
            "--autoencoder",
            metavar="auto|whole|sliced|tiled",
            help="How pictures are decoded: whole, in strips, or in tiles, the least memory; the result is the same.",
            show_default="auto: whole up to 1280x1280, sliced above",
        ),
    ] = None,
    streamed: Annotated[
        float | None,
        typer.Option(
            "--streamed",
            metavar="SHARE",
            min=0,
            max=1,
            help="Share of the denoiser's weights that stay in the machine's memory and visit the GPU when needed.",
            show_default="0",
        ),
    ] = None,
    attention: Annotated[
        Literal["sdpa", "flash", "flash3", "sage", "xformers"] | None,
        typer.Option(
            "--attention",
            metavar="NAME",
            help="Kernel of the attention: sdpa, or that of an installed package: flash, flash3, sage or xformers.",
            show_default="sdpa",
        ),
    ] = None,
    split_attention: Annotated[
        bool,
        typer.Option(
            "--split-attention",
            help="Compute attention for one picture of a batch at a time: less memory without a fused kernel.",
        ),
    ] = False,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the denoiser's blocks: up to a minute before the first picture, each one faster.",
        ),
    ] = False,
    text_encoders: Annotated[
        Literal["auto", "cpu"] | None,
        typer.Option(
            "--text-encoders",
            metavar="auto|cpu",
            help="Where the text encoders are run: auto: on --device; cpu: in the machine's memory, slower.",
            show_default="auto",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        _option(
            "--memory",
            "SIZE",
            "What may be used of the device, for example 12GiB: --weights, --autoencoder, --streamed and "
            "--text-encoders are chosen so that it is enough, as far as they are not given.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was painted as JSON.")] = False,
) -> None:
    """Paint pictures. The same options give the same bytes on one machine.

    Each PNG remembers how it was made: --like FILE.png paints it again. Ctrl-C stops; pictures that are finished stay.
    A --memory that cannot be enough ends with exit code 3 and says what would be needed.
    """
    if prompt is None and like is None:
        raise RecipeError("nothing to paint: give --prompt TEXT, or --like FILE.png to repeat a picture")
    if model is not None and recipe is not None:
        raise RecipeError("which model? give one of --model ID and --recipe FILE")
    if model is not None and not model.strip():
        raise RecipeError(
            "--model is empty; allowed: pocket/flux, a diffusers folder or a hub id. Without it pocket/flux paints"
        )
    wanted = None if size is None else parse_size(size)
    loras = [parse_lora(text) for text in lora or []]

    planner = None if memory is None else planner_for(memory)

    from velatura.cli.progress import progress
    from velatura.events import Events
    from velatura.sampling.generate import generate as paint
    from velatura.sampling.order import Order

    section, base = section_of(recipe)
    order = Order(
        model=model,
        section=section,
        base=base,
        prompt=prompt,
        negative=negative,
        seed=seed,
        steps=steps,
        size=wanted,
        guidance=guidance,
        cfg=cfg,
        loras=tuple(loras),
        image=image,
        strength=strength,
        like=like,
        count=count,
        batch=batch,
        device=device,
        precision=precision,
        weights=weights,
        autoencoder=autoencoder,
        streamed=streamed,
        text_encoders=text_encoders,
        attention=attention,
        split_attention=split_attention,
        compiled=compiled,
        out=out,
    )
    painted: list[Picture] = []
    try:
        with progress(sys.stderr) as listener:
            for picture in paint(order, Events(listener), planner):
                painted.append(picture)  # noqa: PERF402 - one by one, each as soon as it is there
    finally:  # what was painted before an error or Ctrl-C is there, and told
        _print(painted, as_json)


def planner_for(memory: str) -> Planner:
    """What decides how a model is held within so much memory. Raises RecipeError."""
    from velatura.recipe.byte_sizes import size_in_bytes

    budget = size_in_bytes(memory)  # before torch is imported: a mistake is told at once

    from velatura.planning.placing import decide

    return partial(decide, budget=budget)


def _print(painted: list[Picture], as_json: bool) -> None:
    if as_json and painted:
        echo(json.dumps([picture.record() for picture in painted], indent=2))
    elif painted:
        echo("\n".join(str(picture.path) for picture in painted))


def section_of(recipe: Path | None) -> tuple[ModelSection | None, Path | None]:
    """A recipe's `[model]`, and where its paths start. Raises RecipeError."""
    if recipe is None:
        return None, None
    from velatura.recipe.toml import read_recipe

    loaded = read_recipe(recipe)
    return loaded.recipe.model, loaded.base


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of `WxH`. Raises RecipeError."""
    if found := re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})", text.strip()):
        return int(found[1]), int(found[2])
    raise RecipeError(f'received --size "{text}"; allowed: WIDTHxHEIGHT in pixels, for example 1024x768')


def parse_lora(text: str) -> tuple[Path, float]:
    """File and strength of `FILE:WEIGHT` or `FILE`; a drive letter's colon is none of ours. Raises RecipeError."""
    file, colon, weight = text.rpartition(":")
    if not colon or re.match(r"[\\/]", weight):
        return Path(text), 1.0
    try:
        strength = float(weight)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise RecipeError(
            f'received --lora "{text}"; allowed: FILE or FILE:WEIGHT, for example dog.safetensors:0.8'
        )
    return Path(file), strength
