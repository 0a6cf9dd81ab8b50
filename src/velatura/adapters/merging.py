"""Putting LoRAs into a model's weights for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from velatura.adapters.attach import Adapter, LoraValues, check_strength, put_on
from velatura.adapters.files import read_adapter
from velatura.checkpoints.finite import narrowed
from velatura.checkpoints.lora_layer import Part as Network
from velatura.errors import CheckpointError, RecipeError
from velatura.events import Events
from velatura.families.registry import family_for, family_named, files_of
from velatura.interfaces import PARTS, Family, ModelFiles, PartName, Parts
from velatura.placement.device import choose_dtype
from velatura.plural import counted
from velatura.recipe.families.files import ModelSection

CPU = torch.device("cpu")
Lora = Mapping[Network, Mapping[str, LoraValues]]
NETWORKS: Mapping[PartName, tuple[Network, ...]] = {  # as LoRA files call the modules of a part
    "denoiser": ("denoiser",),
    "text_encoders": ("clip_l", "t5"),
    "autoencoder": (),
}


def put_on_part(parts: Parts, name: PartName, lora: Lora) -> list[Adapter]:
    """Put the layers of a LoRA that belong to one part on its modules. Raises CheckpointError where they do not fit."""
    networks, hosts = NETWORKS[name], parts.modules(name)  # of the text encoders, SD has CLIP only
    for network in networks[len(hosts) :] if hosts else ():
        if network in lora:
            layers = counted(len(lora[network]), "layer")
            raise CheckpointError(
                f"the LoRA has {layers} for {network}, which this model does not have: it was made for another model"
            )
    there = zip(networks, hosts, strict=False)
    return [put_on(host, _named_as(host, lora[network])) for network, host in there if network in lora]


def merge_into(
    model: str | ModelSection,
    loras: Sequence[tuple[Path, float]],
    out: Path,
    *,
    base: Path | None,
    precision: str,
    events: Events,
) -> None:
    """Write `model` with all `loras`, each at its weight, added to its weights, as a diffusers folder `out`.

    The sums are made in float32 and rounded once, to `precision`; "auto" keeps the dtype that each weight has in the
    model's files, whatever this machine computes in. Raises RecipeError where `out` exists or a weight is not finite,
    CheckpointError for a LoRA of another model, NumericError for sums that the dtype cannot hold.
    """
    for path, weight in loras:
        check_strength(weight, path)
    if out.exists():
        raise RecipeError(f"{out} exists already; give the folder of a new model")
    start = base or Path.cwd()
    section = family_named(model, start) if isinstance(model, str) else model
    family, files = family_for(section), files_of(section, start)
    read = [(path, weight, read_adapter(path)) for path, weight in loras]
    events.notice("loading the model")
    parts = family.load(files, PARTS, device=CPU, dtype=torch.float32)
    for path, weight, lora in read:
        adapters = [adapter for name in PARTS for adapter in put_on_part(parts, name, lora)]
        if not adapters:
            raise CheckpointError(f"{path} has no layer for this model ({', '.join(lora)} only)")
        for adapter in adapters:
            adapter.merge(weight)
        events.notice(
            f"{path}: {counted(sum(len(adapter.layers) for adapter in adapters), 'layer')} merged at {weight:g}"
        )
    events.notice(f"writing {out}")
    if precision == "auto":
        _round_as_stored(family, files, parts, events)
    dtype = None if precision == "auto" else choose_dtype(precision, CPU)
    family.save(parts, files, out, PARTS, dtype=dtype)


@torch.no_grad()
def _round_as_stored(family: Family, files: ModelFiles, parts: Parts, events: Events) -> None:
    """Give every weight the dtype that it has in the model's files; those in 8 bits, which cannot hold a sum, bf16."""
    stored = family.load(files, PARTS, device=torch.device("meta"), dtype=None)
    narrow, dtypes = 0, set()
    for name in PARTS:
        for module, like in zip(parts.modules(name), stored.modules(name), strict=True):
            kinds = {path: parameter.dtype for path, parameter in like.named_parameters()}
            for path, parameter in module.named_parameters():
                kind = kinds[path]
                if kind.itemsize < 2:
                    kind, narrow = torch.bfloat16, narrow + 1
                parameter.data = narrowed(parameter.data, kind, f"{name}/{path}")
                dtypes.add(kind)
    kept = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    events.notice(f"the weights stay in the dtypes of the model's files: {kept}")
    if narrow:
        events.warn(
            f"{counted(narrow, 'weight tensor is', 'weight tensors are')} in 8 bits in the model's files; a sum does "
            "not fit there, so bf16 was written. For another type say --precision."
        )


def _named_as(host: nn.Module, values: Mapping[str, LoraValues]) -> dict[str, LoraValues]:
    """CLIP's layers by the host's own names: some versions of the library nest them in `text_model`."""
    if hasattr(host, "text_model"):
        return dict(values)
    return {module.removeprefix("text_model."): value for module, value in values.items()}
