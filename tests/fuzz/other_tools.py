"""Datasets of other tools: trees and manifests of EveryDream2, dataset files of sd-scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from velatura.data.scanning.listings import Listings
from velatura.data.sources.everydream2 import read_everydream2
from velatura.data.sources.sd_scripts import expand_sd_scripts
from velatura.recipe.data.sources.everydream2 import EveryDream2Data
from velatura.recipe.data.sources.sd_scripts import SdScriptsData

from .checkpoints import put
from .mutate import dumped, of_text
from .tables import alone, changed_json, changed_text, check_inside, folder_of_pictures
from .target import Target

YAML = b"""main_prompt: a red cube
tags:
- tag: matte
  weight: 0.5
- &t glossy
- *t
rating: 0.9
max_caption_length: 200
multiply: 2.5
cond_dropout: 0.1
flip_p: 0.5
loss_scale: 1.5
shuffle_tags: true
batch_id: one
caption: {main_prompt: inner, tags: [a, b]}
"""
YAML_WORDS = (
    "&a ", "*a", "*t", "<<: *a", "!!python/object/apply:os.system [x]", "!!binary x", "!x ", "? ", "- ", "---\n", "...\n", "|\n ",
    ">\n ", "[" * 500, "{a: " * 500, "%YAML 9.9\n", "%TAG ! x\n", "caption: &c {caption: *c}", "\t", "'", '"', "# ", ": ", "nan", ".inf",
    *("main_prompt", "tags", "weight", "rating", "multiply", "flip_p", "caption", "null", "~", "1e400", "-1"),
)  # fmt: skip
ED_FILES = (
    "global.yaml",
    "local.yaml",
    "a.yaml",
    "a.txt",
    "multiply.txt",
    "batch_id.txt",
    "flip_p.txt",
    "a.caption",
)


def make_ed_tree(chance: Random) -> bytes:
    """The first byte says which file of the tree is the case."""
    kind = chance.randrange(len(ED_FILES))
    yaml = (
        YAML
        if ED_FILES[kind].endswith("yaml")
        else chance.choice((b"a red cube, matte, {x|y}", b"0.5", b"one"))
    )
    if kind < 3 and chance.random() < 0.03:
        return bytes([kind]) + bomb(chance)
    return bytes([kind]) + of_text(YAML_WORDS)(chance, yaml)


def bomb(chance: Random) -> bytes:
    """Aliases of aliases: lists that grow tenfold, tables inside tables, long texts many times, merges of merges."""
    levels, wide = chance.choice((3, 9, 40, 400)), chance.choice((2, 10, 100))
    match chance.randrange(4):
        case 0:
            lines = [f"k{i}: &k{i} [{', '.join([f'*k{i - 1}' if i else 'x'] * wide)}]" for i in range(levels)]
            last = f"tags: *k{levels - 1}"
        case 1:
            lines = [f"k{i}: &k{i} {{caption: {f'*k{i - 1}' if i else 'x'}}}" for i in range(levels)]
            last = f"caption: *k{levels - 1}"
        case 2:
            lines = [f"k: &k {'long text ' * 100 * wide}"]
            last = f"main_prompt: [{', '.join(['*k'] * levels * wide)}]"
        case _:
            lines = ["k: &k {" + ", ".join(f"key{i}: x" for i in range(levels)) + "}"]
            last = f"<<: [{', '.join(['*k'] * wide * 10)}]"
    return "\n".join([*lines, last]).encode()[: 2**16]


def read_ed(root: str, section: EveryDream2Data | None = None) -> Callable[[bytes, Path], None]:
    """Reads the case as a manifest, or as a file of a tree."""

    def read(data: bytes, folder: Path) -> None:
        folder_of_pictures(folder)
        if root == ".":
            for name in ED_FILES:
                (folder / name).unlink(missing_ok=True)
        put(*(data[1:], folder, ED_FILES[data[0]]) if root == "." else (data, folder, root))
        found = read_everydream2(EveryDream2Data(root=root), folder, lambda path: Listings(None, path))
        if root != ".":  # in a tree of one's own, links are one's own
            check_inside(found, folder)

    return read


MANIFEST = dumped([{"image": "a.png", "caption": "a.txt"}, {"image": "sub/b.png", "caption": {"main_prompt": "x", "tags": [
    {"tag": "y", "weight": 0.5}, "z"]}, "multiply": 2, "flip_p": 0.5, "cond_dropout": 0.1, "batch_id": "one"}])  # fmt: skip
SD_TOML = b"""[general]
shuffle_caption = true
caption_extension = '.txt'
keep_tokens = 1

[[datasets]]
resolution = [512, 768]
batch_size = 4
enable_bucket = true
min_bucket_reso = 256

  [[datasets.subsets]]
  image_dir = 'sub'
  class_tokens = 'a dog'
  num_repeats = 2
  flip_aug = true

[[datasets]]
resolution = 512

  [[datasets.subsets]]
  metadata_file = 'meta.json'
  caption_prefix = "x"
"""
SD_JSON = dumped(
    {
        "general": {"flip_aug": False},
        "datasets": [{"resolution": 512, "subsets": [{"image_dir": "sub", "num_repeats": 1}]}],
    }
)
SD_WORDS = (
    "[general]", "[[datasets]]", "[[datasets.subsets]]", "[datasets]", "true", "[512, 512]", "1e5", "0xFFFF", "1979-05-27", "{a = 1}",
    "image_dir", "is_reg = true", "conditioning_data_dir = 'sub'", "face_crop_aug_range = [1.0, 2.0]", "custom_attributes = {a = 1}",
    "'''", '"""', "[" * 3000, "{a=" * 3000, "0x" + "F" * 5000, "9" * 5000, "resolution", "64", "1e308", "nan", "'", '"',
)  # fmt: skip


def read_sd(name: str) -> Callable[[bytes, Path], None]:
    """Reads the case as a dataset file of sd-scripts."""

    def read(data: bytes, folder: Path) -> None:
        folder_of_pictures(folder)
        put(b'{"a": {"caption": "x"}}', folder, "meta.json")
        put(data, folder, name)
        expand_sd_scripts(SdScriptsData(file=name, resolution=512), folder)

    return read


ED_WORDS = (
    "image",
    "caption",
    "tags",
    "tag",
    "main_prompt",
    "multiply",
    "a.txt",
    "a.yaml",
    "link.png",
    "out/passwd",
)
TARGETS = (
    Target(name="everydream2 tree", sound=alone(b"\0" + YAML), make=make_ed_tree, read=read_ed(".")),
    Target(
        name="everydream2 manifest",
        sound=alone(MANIFEST),
        make=changed_json(MANIFEST, ED_WORDS),
        read=read_ed("m.json"),
    ),
    Target(
        name="sd-scripts toml",
        sound=alone(SD_TOML),
        make=changed_text(SD_TOML, SD_WORDS),
        read=read_sd("d.toml"),
    ),
    Target(
        name="sd-scripts json",
        sound=alone(SD_JSON),
        make=changed_json(SD_JSON, ("resolution", "subsets", "image_dir", "flip_aug")),
        read=read_sd("d.json"),
    ),
)
