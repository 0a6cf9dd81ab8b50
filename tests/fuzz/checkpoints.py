"""Weights files: safetensors, pickles, indexes of shards, LoRAs of all tools, and the networks that headers tell of."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, get_args

import torch

from velatura.checkpoints.checkpoint import Checkpoint
from velatura.checkpoints.detect import contents, identify
from velatura.checkpoints.flux_keys import flux_config, flux_denoiser
from velatura.checkpoints.header import DTYPES
from velatura.checkpoints.lora_file import Written, convert, lora_tensors, read_lora
from velatura.checkpoints.opening import open_checkpoint
from velatura.checkpoints.sd1_keys import sd1_unet, sd1_unet_config
from velatura.checkpoints.text_keys import clip_config, clip_text_encoder, t5_config, t5_encoder
from velatura.checkpoints.vae_keys import autoencoder, vae_config
from velatura.errors import VelaturaError

from .mutate import NUMBERS, TEXTS, dumped, of_bytes, of_json, tree
from .target import Target
from .weights import ALIKE, LORA_WORDS, LORAS, MODELS, NOTES, PLAIN, Tensors


def file_of(chance: Random, tensors: Tensors, metadata: dict[str, str], words: tuple[str, ...] = ()) -> bytes:
    """A safetensors file of these tensors, some of them changed; mostly one whose header tells the truth."""
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        tensors = _changed(chance, tensors, words)
    header, offset = _header(tensors, metadata)
    if chance.random() < 0.3:
        header = tree(chance, header, (*words, *DTYPES, "F4", "dtype", "shape"))
    return _packed(chance, dumped(header), _payload(chance, offset))


def _header(tensors: Tensors, metadata: dict[str, str]) -> tuple[dict[str, Any], int]:
    """The header of a sound file, and how many bytes follow it."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, (kind, shape) in tensors.items():
        stop = offset + torch.Size(shape).numel() * DTYPES[kind].itemsize
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, stop]}
        offset = stop
    return header, offset


def sound(*files: Tensors) -> Callable[[], Iterable[bytes]]:
    """These tensors, each made of the same byte."""

    def whole(tensors: Tensors) -> bytes:
        header, size = _header(tensors, {})
        text = dumped(header)
        return len(text).to_bytes(8, "little") + text + bytes([60]) * size

    return lambda: map(whole, files)


def _packed(chance: Random, header: bytes, data: bytes) -> bytes:
    if chance.random() < 0.1:
        header = of_bytes((b'"a":', b"NaN", b"[" * 3000, b"\\ud800"))(chance, header)
    length = len(header) if chance.random() < 0.93 else chance.choice(NUMBERS) % 2**64
    whole = length.to_bytes(8, "little") + header + data
    return of_bytes()(chance, whole) if chance.random() < 0.1 else whole


def _payload(chance: Random, size: int) -> bytes:
    """Mostly finite numbers."""
    match chance.randrange(4):
        case 0:
            return chance.randbytes(size)
        case 1:
            return bytes(size)
        case _:
            return bytes(chance.choices((0, 10, 60, 61, 62), k=size))


def _changed(chance: Random, tensors: Tensors, words: tuple[str, ...]) -> Tensors:
    name = chance.choice(list(tensors))
    kind, shape = tensors[name]
    found = dict(tensors)
    match chance.randrange(7):
        case 0 if len(tensors) > 1:
            del found[name]
        case 1:
            del found[name]
            found[_renamed(chance, name, words)] = (kind, shape)
        case 2:
            found[_renamed(chance, name, words)] = (kind, shape)
        case 3:
            found[name] = (chance.choice(list(DTYPES)), shape)
        case 4:
            found[name] = (kind, [chance.choice((0, 1, 2, 3, 5)) for _ in range(chance.randrange(6))])
        case 5 if shape:
            at = chance.randrange(len(shape))
            found[name] = (
                kind,
                [*shape[:at], max(0, shape[at] + chance.choice((-1, 1, 2))), *shape[at + 1 :]],
            )
        case _:
            found |= chance.choice((*LORAS, PLAIN))
    return found or PLAIN


def _renamed(chance: Random, name: str, words: tuple[str, ...]) -> str:
    place, word = chance.randrange(len(name) + 1), chance.choice((*words, *TEXTS, *(".0.", "_1_", ".weight")))
    word = word.replace("\ud800", "?")
    parts = name.split(".")
    return chance.choice((
        name[:place] + word + name[place:], name + word, word + name, name[:place] + word, ".".join(reversed(parts)),
        name.replace("0", chance.choice(("1", "7", "9999", "00", "٣"))), word, name.replace(".", "_"),
    ))  # fmt: skip


def put(data: bytes, folder: Path, name: str = "x.safetensors") -> Path:
    """The case as a new file: one that is mapped elsewhere must not change."""
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


def read_weights(data: bytes, folder: Path) -> None:
    """Open, and read every tensor."""
    with open_checkpoint(put(data, folder)) as checkpoint:
        for key in checkpoint:
            assert checkpoint.read(key, dtype=torch.float32).shape == checkpoint.shape(key)


def read_pickle(data: bytes, folder: Path) -> None:
    """As `read_weights`, under the name of a pickle."""
    with open_checkpoint(put(data, folder, "x.ckpt")) as checkpoint:
        for key in checkpoint:
            checkpoint.read(key)


def read_as_lora(data: bytes, folder: Path) -> None:
    """Read, and bring into every format."""
    lora = read_lora(put(data, folder))
    for to in get_args(Written):
        with suppress(VelaturaError):
            lora_tensors(convert(lora, to), to, dtype=torch.float16)


def read_headers(data: bytes, folder: Path) -> None:
    """Tell what networks a file holds, and their configs from the shapes."""
    with open_checkpoint(put(data, folder)) as checkpoint:
        identify(checkpoint), contents(checkpoint)
        for describe in (flux_config, sd1_unet_config, vae_config, clip_config, t5_config):
            with suppress(VelaturaError):
                json.dumps(describe(checkpoint))
        _parts(checkpoint)


def _parts(checkpoint: Checkpoint) -> None:
    for find in (
        flux_denoiser,
        sd1_unet,
        autoencoder,
        t5_encoder,
        lambda file: clip_text_encoder(file, ["text_model.x"]),
    ):
        with suppress(VelaturaError):
            inner, key_map = find(checkpoint)
            for key in inner:
                key_map.rule_for_file(key)


def _pickles() -> list[bytes]:
    """What `torch.save` writes, new and old, and what it would not."""
    tensors = OrderedDict(
        a=torch.arange(6.0).reshape(2, 3), b=torch.ones(4, dtype=torch.bfloat16), c=torch.tensor(3)
    )
    found = []
    for content in (tensors, {"state_dict": dict(tensors), "epoch": 3}, [1, 2], {1: tensors["a"]}, Path("x")):
        for zipped in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
            found.append(buffer.getvalue())
    return [*found, pickle.dumps({"a": 1}), pickle.dumps(print)]


def make_pickle(chance: Random) -> bytes:
    """Of a zip, mostly one of its members is changed, and its checksum made right."""
    data = chance.choice(PICKLES)
    change = of_bytes(
        (
            b"\x80\x02",
            b"cos\nsystem\n",
            b"ctorch\nload\n",
            b"R",
            b"X\xff\xff\xff\x7f",
            b"\x8a\x08" + b"\xff" * 8,
            b"K\x01",
            b"\x85",
            b"(",
        )
    )
    if not data.startswith(b"PK") or chance.random() < 0.3:
        return change(chance, data)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        chosen = chance.choice([name for name in names if name.endswith(".pkl")] + names)
        for name in names:
            content = old.read(name)
            new.writestr(name, change(chance, content) if name == chosen else content)
    return buffer.getvalue()


INDEX = dumped(
    {
        "metadata": {"total_size": 8},
        "weight_map": {"a": "m-00001-of-00002.safetensors", "b": "m-00002-of-00002.safetensors"},
    }
)
_ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def read_index(data: bytes, folder: Path) -> None:
    """An index beside two sound shards."""
    for number, name in ((1, "a"), (2, "b")):
        header = dumped({name: _ONE})
        put(
            len(header).to_bytes(8, "little") + header + bytes(4),
            folder,
            f"m-{number:05}-of-00002.safetensors",
        )
    with open_checkpoint(put(data, folder, "m.safetensors.index.json")) as checkpoint:
        for key in checkpoint:
            checkpoint.read(key)


def make_lora(chance: Random) -> bytes:
    """Layers of one tool, or of two."""
    tensors: Tensors = {}
    first = chance.randrange(len(LORAS))
    for other in (
        first,
        *(chance.choice(ALIKE.get(first, range(len(LORAS)))) for _ in range(chance.choice((0, 0, 1, 2)))),
    ):
        tensors |= LORAS[other]
    metadata = dict(chance.choice(NOTES))
    if metadata and chance.random() < 0.5:
        key = chance.choice(list(metadata))
        metadata[key] = of_json(("alpha", "rank", "lost", "F32", "^", ".*"))(
            chance, dumped(_document(metadata[key]))
        ).decode("utf-8", "replace")
    return file_of(chance, tensors, metadata, LORA_WORDS)


def _document(text: str) -> Any:
    with suppress(ValueError):
        return json.loads(text)
    return text


def make_model(chance: Random) -> bytes:
    """One network, or two in one file."""
    tensors = dict(chance.choice(MODELS)) | (dict(chance.choice(MODELS)) if chance.random() < 0.2 else {})
    return file_of(
        chance,
        tensors,
        {},
        ("model.diffusion_model.", "double_blocks.9999.", "layers.3000.", "block.", *chance.choice(MODELS)),
    )


PICKLES = _pickles()
TARGETS = (
    Target(
        name="safetensors",
        sound=sound(PLAIN),
        make=lambda chance: file_of(chance, PLAIN, {"format": "pt"}),
        read=read_weights,
    ),
    Target(name="pickles", sound=lambda: PICKLES[:4], make=make_pickle, read=read_pickle),
    Target(
        name="shard index",
        sound=lambda: (INDEX,),
        make=lambda chance: of_json(("m-00001-of-00002.safetensors", "weight_map"))(chance, INDEX),
        read=read_index,
    ),
    Target(name="lora", sound=sound(*LORAS), make=make_lora, read=read_as_lora),
    Target(name="model headers", sound=sound(*MODELS), make=make_model, read=read_headers),
)
