"""What runs leave behind and read again: states, shards of the cache."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import torch

from velatura.checkpoints.writing import header_bytes, payload
from velatura.data.caches.blocks import pack
from velatura.data.caches.shards import ShardStore
from velatura.errors import VelaturaError
from velatura.events import Events
from velatura.training.states.identity import Identity
from velatura.training.states.manifest import MANIFEST
from velatura.training.states.saved_states import load_state, saved_before
from velatura.training.states.state import RunState, save_state

from .checkpoints import put
from .mutate import dumped, of_bytes, of_json, tree
from .target import Target

WORDS = (
    "checksums",
    "values.safetensors",
    "../x",
    "/dev/zero",
    "identity",
    "recipe",
    "step",
    "format",
    "scaler",
    "painted",
)


def silent() -> Events:
    """Events that no one hears."""
    return Events()


@lru_cache
def state_files() -> dict[str, bytes]:
    """The files of a state."""
    identity = Identity(recipe={"seed": 1}, data="d", model={"denoiser": "w"})
    values = {"a.down": torch.ones(2, 3), "b.up": torch.zeros(2)}
    state = RunState(
        step=2,
        identity=identity,
        values=values,
        average=None,
        optimizer={"a.down/exp_avg": torch.ones(2, 3)},
        scaler={"scale": 0.5},
    )
    with tempfile.TemporaryDirectory() as folder:
        path = save_state(Path(folder), state, keep=1)
        return {file.name: file.read_bytes() for file in path.iterdir()}


def make_state(chance: Random) -> bytes:
    """The manifest changed, and mostly signed anew; or, marked by a first byte of 1, the weights."""
    files = state_files()
    if chance.random() < 0.2:
        return b"\1" + of_bytes()(chance, files["values.safetensors"])
    if chance.random() < 0.2:
        return b"\0" + of_json(WORDS)(chance, files[MANIFEST])
    document: Any = tree(chance, json.loads(files[MANIFEST]), WORDS)
    if isinstance(document, dict):
        rest = {key: value for key, value in document.items() if key != "manifest"}
        signed = json.dumps(rest, sort_keys=True).encode()
        document = {**rest, "manifest": hashlib.blake2b(signed, digest_size=16).hexdigest()}
    return b"\0" + dumped(document)


def read_state(data: bytes, folder: Path) -> None:
    """The newest state: what is damaged is skipped, with a warning."""
    shutil.rmtree(folder / "000002", ignore_errors=True)
    (folder / "000002").mkdir()
    changed = "values.safetensors" if data[0] else MANIFEST
    for name, content in {**state_files(), changed: data[1:]}.items():
        put(content, folder / "000002", name)
    with suppress(VelaturaError):
        saved_before(folder)
    load_state(folder, silent())


@lru_cache
def shard() -> tuple[dict[str, Any], dict[str, str], bytes]:
    """Header, metadata and payload of a shard of the cache."""
    groups = {f"key{i}": {"mean": torch.full((2, 3), float(i)), "ids": torch.arange(2)} for i in range(3)}
    groups["other"] = {"mean": torch.ones(1)}
    tensors, metadata = pack(groups)
    raw = header_bytes(tensors, metadata)
    return json.loads(raw[8:]), metadata, b"".join(bytes(part) for part in payload(tensors))


def make_shard(chance: Random) -> bytes:
    """Another header before the same values, or other bytes."""
    header, metadata, _ = shard()
    found: Any = dict(header)
    if chance.random() < 0.6:
        told = tree(chance, metadata, ("0/keys", "0/checksums", "key0 key1", "1/keys", "0", ""))
        found["__metadata__"] = told
    else:
        found = tree(chance, header, ("0/mean", "0/", "/mean", "2/x", "F32", "I64", "shape"))
    data = as_shard(found)
    return of_bytes()(chance, data) if chance.random() < 0.2 else data


def as_shard(header: Any) -> bytes:
    """This header before the values."""
    text = dumped(header)
    return len(text).to_bytes(8, "little") + text + shard()[2]


def read_shard(data: bytes, folder: Path) -> None:
    """Index the shard, and read all that it says it has; what is damaged is deleted, with a warning."""
    put(data, folder, "s.safetensors")
    store = ShardStore(folder, silent())
    keys = store.keys()
    for number in (1, len(keys)):
        for _, group in store.read(keys[:number]):
            assert all(isinstance(value, torch.Tensor) for value in group.values())


TARGETS = (
    Target(name="states", sound=lambda: (b"\0" + state_files()[MANIFEST],), make=make_state, read=read_state),
    Target(name="cache shards", sound=lambda: (as_shard(shard()[0]),), make=make_shard, read=read_shard),
)
