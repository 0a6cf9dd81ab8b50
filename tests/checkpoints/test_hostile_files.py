"""Files made to break a reader: through `open_checkpoint` and `read_lora` only our own errors may come."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from velatura.checkpoints.header import DTYPES
from velatura.checkpoints.lora_file import Written, convert, lora_tensors, read_lora
from velatura.checkpoints.opening import open_checkpoint
from velatura.errors import CheckpointError, ModelError, NumericError

from .conftest import raw_file

QUICK = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FOUR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def length(value: int) -> bytes:
    return value.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes, expected at least 8"),
        (b"\x01", "1 byte, expected at least 8"),
        (length(2**60), "its header claims 1152921504606846976 bytes"),
        (length(2**63), "its header claims 9223372036854775808 bytes"),
        (length(2**60) + b"{" * 100, "its header claims 1152921504606846976 bytes"),
        (length(1000) + b'{"a":1}', "its header claims 1000 bytes"),
        (length(0), "its header claims 0 bytes"),
        (length(6) + b'{"\xff":1}'[:6], "not valid JSON"),
        (length(2) + b"{}" + b"more", "4 bytes follow"),
        (b"\x1f\x8b" + bytes(200), "its header"),
    ],
)
def test_hostile_beginnings(tmp_path: Path, content: bytes, says: str) -> None:
    for name in ("x.safetensors", "x.ckpt"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(path)
        assert says in str(caught.value)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {**FOUR, "data_offsets": [0, 2**60]}},
        {"a": {**FOUR, "data_offsets": [2**60, 2**60 + 4]}},
        {"a": {**FOUR, "shape": [2**32, 2**32]}},
        {"a": {**FOUR, "shape": [2**31, 2**31, 4]}},
        {"a": {**FOUR, "shape": [2**62]}, "b": FOUR},
        {"a": FOUR, "b": FOUR},
        {"a": FOUR, "b": {**FOUR, "data_offsets": [2, 6]}},
        '{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}, "a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        '{"a": {"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}',
    ],
)
def test_lies_about_sizes_cost_no_memory(tmp_path: Path, header: Any) -> None:
    path = raw_file(tmp_path / "x.safetensors", header, bytes(4))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="damaged or unsafe"):
        open_checkpoint(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


STEMS = (
    "lora_unet_double_blocks_0_img_attn_qkv",
    "lora_unet_single_blocks_0_linear1",
    "transformer.single_transformer_blocks.0.attn.to_q",
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
)
PAIRS = (([2, 6], [18, 2]), ([2, 6], [42, 2]), ([3, 6], [6, 3]), ([2, 6, 1, 1], [6, 2, 1, 1]))
SHAPES = st.lists(st.integers(0, 4), max_size=5)
EXTRAS = (
    ".alpha",
    ".weight",
    ".scale_weight",
    ".lora_down.scale_weight",
    ".lora_up.weight_scale",
    ".dora_scale",
    "",
)
FLOATS = ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F64")
NOTES = ("{", "[]", "null", "3", '{"transformer.single_transformer_blocks.0.attn.to_q": {"alpha": 1}}')


@st.composite
def well_formed(draw: st.DrawFn) -> bytes:
    """Sound safetensors with the names of a LoRA, mostly of sound shapes too, and at times with more."""
    tensors: dict[str, tuple[str, list[int]]] = {}
    mostly = st.integers(0, 7).map(bool)
    for stem in draw(st.lists(st.sampled_from(STEMS), min_size=1, max_size=2, unique=True)):
        names = (
            (".lora_A.weight", ".lora_B.weight") if "." in stem else (".lora_down.weight", ".lora_up.weight")
        )
        for name, shape in zip(names, draw(st.sampled_from(PAIRS)), strict=True):
            kind = draw(st.sampled_from(FLOATS if draw(mostly) else list(DTYPES)))
            tensors[stem + name] = (kind, shape if draw(mostly) else draw(SHAPES))
        if not draw(mostly):
            extra = stem + draw(st.sampled_from(EXTRAS))
            tensors[extra] = (
                draw(st.sampled_from(list(DTYPES))),
                draw(st.sampled_from([[], [1], [2], [2, 1]])),
            )
    header: dict[str, Any] = {}
    offset = 0
    for name, (kind, shape) in tensors.items():
        stop = offset + torch.Size(shape).numel() * DTYPES[kind].itemsize
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, stop]}
        offset = stop
    if draw(st.booleans()):
        keys = ("velatura.folded_alpha", "lora_adapter_metadata", "velatura.layout")
        header["__metadata__"] = {key: draw(st.sampled_from(NOTES)) for key in keys}
    text = json.dumps(header).encode()
    step = draw(st.integers(0, 60))  # small ones are finite numbers in most dtypes
    return length(len(text)) + text + bytes((step * (i + 1)) % 256 for i in range(offset))


def read_all(content: bytes) -> None:
    """Open, read every tensor, and convert as a LoRA: each may be refused, in our own words."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(content)
        with suppress(ModelError), open_checkpoint(path) as checkpoint:
            for key in checkpoint:
                assert checkpoint.read(key, dtype=torch.float32).shape == checkpoint.shape(key)
        for to in get_args(Written):
            with suppress(ModelError, NumericError):
                lora_tensors(convert(read_lora(path), to), to, dtype=torch.float16)


@QUICK
@given(content=well_formed())
def test_anything_under_the_names_of_loras(content: bytes) -> None:
    read_all(content)


@QUICK
@given(data=st.data())
def test_damaged_at_one_place_or_cut(data: st.DataObject) -> None:
    content = bytearray(data.draw(well_formed()))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    read_all(bytes(content[: data.draw(st.integers(place, len(content)))]))
