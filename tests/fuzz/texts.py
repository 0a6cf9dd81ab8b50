"""What people type: recipes and their changes, captions, preview lines, LoRA options, paths and hub ids."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from pydantic import ValidationError

from velatura.checkpoints.lora_file import read_lora
from velatura.cli.generate import parse_lora, parse_size
from velatura.data.sources.shard_files import shard_files
from velatura.data.text.captions import read_caption
from velatura.data.text.texts import possible_texts
from velatura.data.text.wording import Wording, is_fixed, text_of
from velatura.errors import VelaturaError
from velatura.families.locate import locate
from velatura.recipe.data.sources.folder import FolderData
from velatura.recipe.data.sources.webdataset import WebDatasetData
from velatura.recipe.paths import missing_files, resolve, with_absolute_paths
from velatura.recipe.starter import starter
from velatura.recipe.toml import dump_recipe, load_recipe, parse_recipe
from velatura.sampling.request import Request, check, parse_line

from .checkpoints import put
from .mutate import of_text
from .target import Target

SIZE_STEP = 16
RECIPE = b"""name = "my-dog"
seed = 1

[model]
model = "pocket/flux"

[[data]]
folder = "photos"
resolution = [512, 768]
repeats = 10

[adapter]
rank = 16
targets = ["attention", "mlp"]

[objective]
kind = "flow"

[optimizer]
learning_rate = 1e-4
schedule = "cosine"

[training]
steps = 1500

[previews]
every = 250
prompts = ["a photo of my dog --w 1024 --h 768 --d 7"]
"""
TOML_WORDS = (
    "[data]", "[[data]]", "[[data.x]]", "[model.x]", "[x]", "[[model]]", "{a = 1}", "{a = [1, {b = 2}]}", "[[1], [2]]", "true", "1e5",
    "0x" + "F" * 5000, "9" * 5000, "-9223372036854775809", "1979-05-27T07:32:00Z", "07:32:00", "inf", "nan", "'''", '"""', '"\\u0000"',
    '"\\ud800"', '"a\\nb"', "[" * 3000, "{a=" * 3000, "a." * 3000 + "b = 1", "#", "= =", "kind = \"table\"", 'file = "x.csv"',
    'model = "~nobody-here/x"', 'folder = "~nobody-here/x"', 'folder = "\\u0000"', f'folder = "{"x" * 5000}"', 'family = "sd1"',
    "ema = 1", 'prompts = ["--w"]', 'prompts = ["a --w 9999999999999999999999"]', 'steps = "x"', "rank = -1", "\\", "\r", "\t",
)  # fmt: skip


@lru_cache
def recipes() -> tuple[bytes, ...]:
    """A short recipe, and the starters."""
    return RECIPE, *(starter(kind).encode() for kind in ("flux-lora", "sd1-lora"))


def make_recipe(chance: Random) -> bytes:
    """One of them with lines and words changed."""
    return of_text(TOML_WORDS)(chance, chance.choice((RECIPE, RECIPE, *recipes())))


def read_recipe(data: bytes, folder: Path) -> None:
    """Load; and what parses is written, and read again to the same."""
    path = put(data, folder, "recipe.toml")
    (folder / "photos").mkdir(exist_ok=True)
    try:
        recipe = parse_recipe(data.decode(), base=folder)
    except UnicodeDecodeError:
        load_recipe(path)
        return
    assert parse_recipe(dump_recipe(recipe), base=folder) == recipe
    missing_files(with_absolute_paths(recipe, folder), folder)
    load_recipe(path)


SETS = (
    b"optimizer.learning_rate=2e-4",
    b"data.0.resolution=[512, 768]",
    b"name=7",
    b"previews.prompts=['a --w 64']",
    b"model.model=x",
)
SET_WORDS = (
    ".",
    "=",
    "data",
    "0",
    "-1",
    "99999999999999999999",
    "[",
    "{",
    "'",
    '"',
    "a.b.c",
    *TOML_WORDS[8:24],
    "data.0",
    "model",
    "\n",
)


def read_sets(data: bytes, folder: Path) -> None:
    """Each line is a `--set`."""
    parse_recipe(RECIPE.decode(), sets=data.decode("utf-8", "surrogateescape").split("\n")[:20], base=folder)


CAPTIONS = (
    b"a {red|blue|{light|dark} green} cube, matte, {{plain}}, tag one, tag two",
    b"first line\nsecond ||| line, a ||| b",
    "é𝕏, ü, 日本".encode(),
)
CAPTION_WORDS = (
    "{",
    "}",
    "|",
    "{{",
    "}}",
    "{|}",
    "{a|b}",
    "{" * 2000,
    "}" * 2000,
    "{a|" * 1000,
    ",",
    ", ",
    "|||",
    ";;",
    "\n",
    "\r",
    "\u2028",
    "sks",
)
WORDINGS = (
    Wording(wildcards=True, shuffle=True, tag_dropout=0.3, keep=1, trigger="sks", prefix="p", suffix="s", max_length=60),
    Wording(wildcards=True, variants=3, keep_separator="|||", secondary_separator=";;"),
    Wording(first_line=True, shuffle=True, warmup_steps=10, keep_separator="|||", max_length=1),
    Wording(separator="a", suffix=", {a|b}"),
)  # fmt: skip


def read_captions(data: bytes, folder: Path) -> None:
    """A caption file, and the texts that it becomes."""
    try:
        caption = read_caption(data)
    except ValueError:  # no text, as documented
        return
    for wording in WORDINGS:
        is_fixed(caption, wording)
        possible_texts(caption, wording)
        text = text_of(caption, wording, np.random.default_rng(0), step=3)
        assert "\n" not in text


LINES = (
    b"a dog on a beach --w 1024 --h 768 --d 7 --s 20 --g 3.5 --l 1 --n blurry, dark",
    b"--n x",
    b"a -- b --",
)
LINE_WORDS = (
    "--w",
    "--h ",
    "--d ",
    "--s ",
    "--g ",
    "--l ",
    "--n ",
    "--x ",
    "--",
    "1e999",
    "-inf",
    "nan",
    "0x10",
    "1_0",
    "1024",
    "64",
    "٣",
)


def read_line(data: bytes, folder: Path) -> None:
    """A preview's line, and whether it can be painted."""
    check(parse_line(data.decode("utf-8", "surrogateescape"), Request(prompt="")), SIZE_STEP)


NAMES = (
    b"dog.safetensors:0.8",
    b"C:\\loras\\dog.safetensors:1",
    b"owner/name",
    b"../x",
    b"/etc/passwd",
    b"shards/{000..012}.tar",
    b"pocket/flux",
    b"~/x:1",
)
NAME_WORDS = (
    ":", "/", "\\", "..", "~", "~nobody-here", "{0..9}", "{a,b}", "{a,b}" * 30, "{0..99999}" * 3, "{9..0}", "{0..99999999999999}", "*", "[a", "?",
    "\0", ".safetensors", "pocket/", "pocket/../x", "a" * 300, "a/" * 2500, "http://x/y", "0.8", "-1", "nan", "1e400", "C:", "//host/share",
)  # fmt: skip


def read_names(data: bytes, folder: Path) -> None:
    """As a LoRA and its strength, as a model, as shards, as a path of a recipe, as a size."""
    text = data.decode("utf-8", "surrogateescape")
    path, _ = _refused(lambda: parse_lora(text)) or (Path(text), 1.0)
    here = folder / "models"
    here.mkdir(exist_ok=True)
    if not path.is_absolute() and ".." not in path.parts and "~" not in text:
        _refused(lambda: read_lora(here / path))
    _refused(lambda: parse_size(text))
    _refused(lambda: shard_files(WebDatasetData(shards=text).shards, here))
    _refused(lambda: resolve(FolderData(folder=text).folder, here))
    locate(text, here)


def _refused(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (VelaturaError, ValidationError):
        return None


def _one_of(texts: tuple[bytes, ...], words: tuple[str, ...]) -> Callable[[Random], bytes]:
    change = of_text(words)
    return lambda chance: change(chance, chance.choice(texts))


TARGETS = (
    Target(name="recipe", sound=lambda: (RECIPE,), make=make_recipe, read=read_recipe, reads_anywhere=True),
    Target(
        name="set options",
        sound=lambda: SETS[:1],
        make=_one_of(SETS, SET_WORDS),
        read=read_sets,
        reads_anywhere=True,
    ),
    Target(
        name="captions", sound=lambda: CAPTIONS, make=_one_of(CAPTIONS, CAPTION_WORDS), read=read_captions
    ),
    Target(name="prompt lines", sound=lambda: LINES, make=_one_of(LINES, LINE_WORDS), read=read_line),
    Target(
        name="names and paths",
        sound=lambda: (b"pocket/flux",),
        make=_one_of(NAMES, NAME_WORDS),
        read=read_names,
    ),
)
