"""Where a LoRA layer's alpha comes from, and what becomes of it in files that have no place for one.

diffusers and PEFT files say nothing per layer: readers take alpha = rank. So a layer with another alpha is
written with alpha / r multiplied into `up`, which every reader understands. That is exact when the factor is
a power of two; else `up` is written in float32, rounded. A note in the metadata gives back the original, bit for bit.
"""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from velatura.checkpoints.checkpoint import Checkpoint
from velatura.checkpoints.header import DTYPE_NAMES, DTYPES
from velatura.checkpoints.lora_layer import LoraLayer, bits
from velatura.errors import ModelError

NOTE = "velatura.folded_alpha"  # JSON {file stem: what `_fact` says}
_PEFT = "lora_adapter_metadata"  # JSON, written by diffusers 0.35 and newer


def fold(layer: LoraLayer) -> LoraLayer:
    """The same update with alpha = rank."""
    if layer.scale == 1:
        return layer
    return replace(layer, up=_times(layer.up, layer.scale), alpha=float(layer.rank))


def _times(up: Tensor, scale: float) -> Tensor:
    """`up * scale` in its own dtype where no bit is lost, else in float32."""
    if math.frexp(scale)[0] == 0.5:  # a power of two: exact unless it leaves the range of the dtype
        product = up * scale
        if torch.equal(product.double(), up.double() * scale):
            return product
    return (up.double() * scale).float()


def folding_note(before: Mapping[str, LoraLayer]) -> str:
    """What `unfold` needs, for the layers by file stem of which a file without alphas says too little."""
    facts = {
        stem: _fact(layer)
        for stem, layer in before.items()
        if layer.scale != 1 or layer.stored_alpha is not None
    }
    return json.dumps(facts, sort_keys=True, separators=(",", ":")) if facts else ""


def _fact(layer: LoraLayer) -> dict[str, Any]:
    """alpha, rank and the dtype of up; what rounding lost of up, and the stored form of alpha, where there is any."""
    fact: dict[str, Any] = {"alpha": layer.alpha, "rank": layer.rank, "up": DTYPE_NAMES[layer.up.dtype]}
    lost = bits(layer.up) - bits(_divided(fold(layer).up, layer.scale, layer.up.dtype))
    if lost.any():  # mostly 0, else 1 or -1: packed, a quarter of a byte per value
        fact["lost"] = base64.b64encode(zlib.compress(lost.numpy().tobytes())).decode()
    if layer.stored_alpha is not None:
        fact["stored"] = [layer.stored_alpha.tolist(), DTYPE_NAMES[layer.stored_alpha.dtype]]
    return fact


def read_note(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The note of a file; nothing where it has none or one that another tool has damaged."""
    return _facts(metadata.get(NOTE))


def unfold(layer: LoraLayer, fact: Any) -> LoraLayer:
    """Undo `fold` by a note's entry for this layer; entries that do not fit the layer are passed over."""
    with suppress(KeyError, TypeError, ValueError, ArithmeticError, RuntimeError, zlib.error, ModelError):
        alpha, kind = float(fact["alpha"]), DTYPES[fact["up"]]
        if fact["rank"] == layer.rank and kind.is_floating_point and 0 < abs(alpha / layer.rank) < math.inf:
            up = _divided(layer.up, alpha / layer.rank, kind)
            if "lost" in fact:
                up = (bits(up) + _unpacked(fact["lost"], bits(up))).view(kind)
            return replace(layer, up=up, alpha=alpha, stored_alpha=_stored(fact.get("stored")))
    return layer


def _divided(up: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    return (up.double() / scale).to(dtype)


def _stored(said: Any) -> Tensor | None:
    """The tensor of [value or [value], dtype]. Raises what a damaged note leads to."""
    if said is None:
        return None
    value, kind = said
    found = torch.tensor(value, dtype=DTYPES[kind])
    if found.numel() != 1:
        raise ValueError(f"{value} is not one number")
    return found


def _unpacked(text: str, like: Tensor) -> Tensor:
    """Integers in the shape and type of `like`. Raises ValueError, zlib.error."""
    raw = zlib.decompressobj().decompress(base64.b64decode(text), like.nbytes + 1)
    return torch.from_numpy(np.frombuffer(raw, like.numpy().dtype).copy()).view(like.shape)


class PeftAlphas:
    """The alphas that diffusers writes into a file's metadata, or PEFT into `adapter_config.json` beside the file."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._name = checkpoint.name
        self._facts = _facts(checkpoint.metadata.get(_PEFT)) or _facts(_config_beside(checkpoint.paths))

    def of(self, prefix: str, module: str, rank: int) -> float:
        """The alpha of a module below `prefix` ("transformer", "unet", …); its rank where nothing is said.

        Raises ModelError for a pattern that is more than a name: which layers it means is not ours to guess.
        """
        alpha = self._fact(prefix, "lora_alpha")
        patterns = self._fact(prefix, "alpha_pattern")
        for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
            if self._matches(pattern, module):
                alpha = value
                break
        if not isinstance(alpha, int | float) or isinstance(alpha, bool):
            return float(rank)
        try:
            value = float(alpha)
        except OverflowError:
            value = math.inf  # which a layer refuses, by its name
        return value * math.sqrt(rank) if self._fact(prefix, "use_rslora") is True else value

    def _fact(self, prefix: str, name: str) -> Any:
        return self._facts.get(f"{prefix}.{name}", self._facts.get(name))

    def _matches(self, pattern: str, module: str) -> bool:
        """PEFT's rule: the pattern fits the end of the path, from a dot on; `^` binds it to the start."""
        name = pattern.removeprefix("^").removesuffix("$")
        if re.fullmatch(r"[\w.-]+", name) is None:
            raise ModelError(
                f"{self._name}: its alpha pattern '{pattern}' is a regular expression; names are read."
            )
        return module == name or (not pattern.startswith("^") and module.endswith(f".{name}"))


def _facts(text: str | None) -> dict[str, Any]:
    try:
        facts = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _config_beside(paths: tuple[Path, ...]) -> str | None:
    config = paths[0].parent / "adapter_config.json" if len(paths) == 1 else None
    return config.read_text("utf-8", "replace") if config is not None and config.is_file() else None
