"""FLUX LoRAs between fused layers (kohya, ComfyUI) and split ones (diffusers), every update W unchanged.

Fused to split: the parts share the down projection, each takes its rows of up. A fused layer made of
independent parts is recognised by its block diagonal up and taken apart into them. Split to fused: parts with
one and the same down become one layer of that rank; others are put side by side, rank k r, up block diagonal.
What is split and fused again has the bits that it had.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from velatura.checkpoints.flux_keys import count_blocks, flux_key_map
from velatura.checkpoints.keymap import KeyMap, Rule
from velatura.checkpoints.lora_layer import Layout, LoraFile, LoraLayer, bits
from velatura.errors import ModelError

MLP_RATIO = 4  # of FLUX, when a file has no layer from which the width of the MLP could be read


def with_layout(lora: LoraFile, layout: Layout) -> LoraFile:
    """The same adapter with the denoiser's layers fused ("bfl") or split ("diffusers").

    Raises ModelError for a layer that FLUX does not have, or another model's adapter.
    """
    if lora.layout == layout:
        return lora
    if "unet" in (lora.layout, layout):
        raise ModelError(
            f"A LoRA in the layout '{lora.layout}' cannot be brought into '{layout}': other models."
        )
    denoiser = list(lora.of("denoiser").values())
    others = [layer for layer in lora.layers if layer.part != "denoiser"]
    if conv := next((layer for layer in denoiser if layer.down.dim() != 2), None):
        raise ModelError(
            f"LoRA layer '{conv.module}': {tuple(conv.down.shape)} is of a convolution, FLUX has linear layers only."
        )
    key_map = _key_map(layer.module for layer in denoiser)
    if layout == "diffusers":
        changed = [part for layer in denoiser for part in split(layer, key_map)]
    else:
        changed = _fuse_all(denoiser, key_map)
    return replace(lora, layers=(*changed, *others), layout=layout)


def widened(lora: LoraFile) -> LoraFile:
    """The same adapter with 8-bit values in bf16, which holds all of them exactly."""

    def wide(values: Tensor) -> Tensor:
        return values.to(torch.bfloat16) if values.itemsize == 1 else values

    layers = tuple(replace(layer, down=wide(layer.down), up=wide(layer.up)) for layer in lora.layers)
    return replace(lora, layers=layers)


def _key_map(modules: Iterable[str]) -> KeyMap:
    names = [f"{module}." for module in modules]
    double = max(count_blocks(names, "double_blocks"), count_blocks(names, "transformer_blocks"))
    single = max(count_blocks(names, "single_blocks"), count_blocks(names, "single_transformer_blocks"))
    return flux_key_map(double_blocks=double, single_blocks=single)


def split(layer: LoraLayer, key_map: KeyMap) -> list[LoraLayer]:
    """The diffusers layers that a fused layer stands for; parts whose rows of up are all zero are left out."""
    match = key_map.rule_for_file(layer.module)
    if match is None or match[1]:
        raise ModelError(f"LoRA layer '{layer.module}': FLUX has no such layer.")
    rule = match[0]
    if len(rule.places) == 1:
        return [replace(layer, module=rule.places[0], up=_swapped(layer.up, rule))]
    ups = layer.up.split(_rows(layer, rule))
    trained = [i for i, up in enumerate(ups) if bits(up).any()] or list(range(len(ups)))
    columns = _blocks([ups[i] for i in trained], len(ups))
    if columns is None or _repeats(layer.down, columns):
        return [replace(layer, module=rule.places[i], up=ups[i].contiguous()) for i in trained]
    return [
        replace(
            layer,
            module=rule.places[i],
            down=layer.down[start:stop].contiguous(),
            up=ups[i][:, start:stop].contiguous(),
            alpha=layer.alpha * (stop - start) / layer.rank,
        )
        for i, (start, stop) in zip(trained, columns, strict=True)
    ]


def _repeats(down: Tensor, columns: Sequence[tuple[int, int]]) -> bool:
    """Whether all blocks have the same down: apart, they would look like parts that share one."""
    first, *others = (down[start:stop] for start, stop in columns)
    return all(torch.equal(first, other) for other in others)


def _rows(layer: LoraLayer, rule: Rule) -> list[int]:
    """Output sizes of the parts: q, k and v are as wide as the input, the MLP has the rest."""
    width, total, count = layer.down.shape[1], layer.up.shape[0], len(rule.places)
    sizes = [width] * min(count, 3) + [total - 3 * width] * (count - 3)
    if sum(sizes) != total or min(sizes) < 1:
        raise ModelError(
            f"LoRA layer '{layer.module}': {total} outputs for an input of {width}, expected q, k, v of it."
        )
    return sizes


def _blocks(ups: Sequence[Tensor], places: int) -> list[tuple[int, int]] | None:
    """Column ranges when each part of a fused layer uses columns of its own, in order; None when they share them."""
    if len(ups) < 2:
        return None
    rank = ups[0].shape[1]
    uses = torch.stack([(bits(up) != 0).any(0) for up in ups])  # [parts, r]
    if int(uses.sum(0).max()) > 1:
        return None
    if len(ups) == places and rank % places == 0:
        equal = [(i * rank // places, (i + 1) * rank // places) for i in range(places)]
        if all(not uses[i, :a].any() and not uses[i, b:].any() for i, (a, b) in enumerate(equal)):
            return equal
    if not uses.any():  # never trained: no part has columns of its own
        return None
    lasts = [int(row.nonzero().max()) + 1 for row in uses]
    firsts = [int(row.nonzero().min()) for row in uses]
    starts = [0, *lasts[:-1]]
    if any(first < start for first, start in zip(firsts, starts, strict=True)):
        return None
    return list(zip(starts, [*lasts[:-1], rank], strict=True))


def _fuse_all(layers: Sequence[LoraLayer], key_map: KeyMap) -> list[LoraLayer]:
    groups: dict[str, tuple[Rule, dict[int, LoraLayer]]] = {}
    for layer in layers:
        match = key_map.rule_for(layer.module)
        if match is None or match[2]:
            raise ModelError(f"LoRA layer '{layer.module}': FLUX has no such layer.")
        rule, position, _ = match
        groups.setdefault(rule.file, (rule, {}))[1][position] = layer
    ratio = _mlp_ratio(layers)
    return [fuse(rule, parts, ratio) for rule, parts in groups.values()]


def _mlp_ratio(layers: Sequence[LoraLayer]) -> float:
    for layer in layers:
        if layer.module.endswith(".proj_mlp"):
            return layer.up.shape[0] / layer.down.shape[1]
    return MLP_RATIO


def fuse(rule: Rule, parts: dict[int, LoraLayer], mlp_ratio: float = MLP_RATIO) -> LoraLayer:
    """One fused layer from the split layers of a rule, by position; absent ones get rows of zeros."""
    present = [parts[i] for i in sorted(parts)]
    first = present[0]
    if len(rule.places) == 1:
        return replace(first, module=rule.file, up=_swapped(first.up, rule))
    width = first.down.shape[1]
    sizes = [width if i < 3 else round(width * mlp_ratio) for i in range(len(rule.places))]
    for position, layer in parts.items():
        if layer.up.shape[0] != sizes[position] or layer.down.shape[1] != width:
            found = f"{layer.down.shape[1]} -> {layer.up.shape[0]}"
            raise ModelError(
                f"LoRA layer '{layer.module}': {found}, expected {width} -> {sizes[position]} to fuse it."
            )
    if all(_shares(first, layer) for layer in present):
        like = torch.promote_types(first.up.dtype, present[-1].up.dtype)
        ups = [parts[i].up if i in parts else first.up.new_zeros(n, first.rank) for i, n in enumerate(sizes)]
        return replace(first, module=rule.file, up=torch.cat([up.to(like) for up in ups]))
    return _side_by_side(rule, parts, sizes)


def _shares(one: LoraLayer, other: LoraLayer) -> bool:
    same = one.down is other.down or (
        one.down.shape == other.down.shape and torch.equal(one.down, other.down)
    )
    return same and one.alpha == other.alpha


def _side_by_side(rule: Rule, parts: dict[int, LoraLayer], sizes: Sequence[int]) -> LoraLayer:
    present = [parts[i] for i in sorted(parts)]
    rank, scale = sum(layer.rank for layer in present), present[0].scale
    # one alpha must serve all; else their scales go into up
    even = all(math.isclose(layer.scale, scale, rel_tol=1e-9) for layer in present)
    kinds = [layer.up.dtype if even else torch.float32 for layer in present]
    up = present[0].up.new_zeros(sum(sizes), rank, dtype=max(kinds, key=lambda kind: kind.itemsize))
    column = 0
    for position in sorted(parts):
        layer, row = parts[position], sum(sizes[:position])
        block = layer.up if even else layer.up.double() * layer.scale
        up[row : row + sizes[position], column : column + layer.rank] = block
        column += layer.rank
    alpha = present[0].alpha * rank / present[0].rank if even else float(rank)
    return replace(
        present[0], module=rule.file, down=torch.cat([p.down for p in present]), up=up, alpha=alpha
    )


def _swapped(up: Tensor, rule: Rule) -> Tensor:
    if rule.form != "swapped_halves":
        return up
    half = up.shape[0] // 2
    return torch.cat([up[half:], up[:half]])
