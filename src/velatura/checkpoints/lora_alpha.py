"""Where a LoRA layer's alpha comes from, and what becomes of it in files that have no place for one.

diffusers and PEFT files say nothing per layer: readers take alpha = rank. So a layer with another alpha is
written with alpha / r multiplied into `up`, which every reader understands. That is exact when the factor is
a power of two; else `up` is written in float32. A note in the metadata gives back the original.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from velatura.checkpoints.checkpoint import Checkpoint
from velatura.checkpoints.lora_layer import LoraLayer
from velatura.errors import ModelError

NOTE = "velatura.folded_alpha"  # JSON {file stem: [alpha, rank, dtype of up]}
_PEFT = "lora_adapter_metadata"  # JSON, written by diffusers 0.35 and newer
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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
    """What `unfold` needs, for layers by file stem whose alpha is not their rank."""
    changed = {stem: layer for stem, layer in before.items() if layer.scale != 1}
    facts = {stem: [layer.alpha, layer.rank, str(layer.up.dtype)[6:]] for stem, layer in changed.items()}
    return json.dumps(facts, sort_keys=True, separators=(",", ":")) if facts else ""


def read_note(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The note of a file; nothing where it has none or one that another tool has damaged."""
    return _facts(metadata.get(NOTE))


def unfold(layer: LoraLayer, fact: Any) -> LoraLayer:
    """Undo `fold` by a note's entry for this layer; entries that do not fit the layer are passed over.

    The update is the same in any case; 16-bit values come back bit for bit, float32 within one unit in the
    last place.
    """
    match fact:
        case [int() | float() as alpha, int() as rank, str() as dtype] if (
            rank == layer.rank and dtype in _DTYPES
        ):
            scale = alpha / rank
        case _:
            return layer
    if not 0 < abs(scale) < math.inf:
        return layer
    up = (layer.up.double() / scale).to(_DTYPES[dtype])
    return replace(layer, up=up, alpha=float(alpha))


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
        return alpha * math.sqrt(rank) if self._fact(prefix, "use_rslora") is True else float(alpha)

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
    return config.read_text("utf-8") if config is not None and config.is_file() else None
