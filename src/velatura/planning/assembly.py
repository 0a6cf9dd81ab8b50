"""A run's networks as tensors without values, put together by the code of the run itself."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from velatura.errors import ModelError
from velatura.families.attending import attend_by
from velatura.families.latent_family import LatentFamily
from velatura.families.network import stored_in_fp8
from velatura.families.outline import Outline, sketched
from velatura.interfaces import Family, PartName, Parts
from velatura.placement.attention import Attention
from velatura.placement.precision.quantised import Fp8Linear, Weights, quantise_blocks
from velatura.placement.streamed.packed import block_tensors
from velatura.planning.devices import Device
from velatura.planning.repeats import prune, runs_of
from velatura.planning.replay import valueless
from velatura.planning.tracking import Bytes, Kind
from velatura.training.setup import Setup
from velatura.training.trainables import Trainables, make_trainables

KIND_OF: dict[PartName, Kind] = {
    "denoiser": "denoiser",
    "autoencoder": "autoencoder",
    "text_encoders": "text encoders",
}


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """Parts of which equal blocks were left out, and what those would hold."""

    parts: Parts
    parameters: dict[str, nn.Parameter]  # trained ones, by name
    autocast: bool  # see `Trainables`
    left_out: dict[int, int]  # see `prune`
    more: Bytes  # held all the time by what was left out; optimizer state is not known here
    more_trained: int  # values of the trained ones among them
    ahead_sizes: tuple[int, ...]  # bytes that may be streamed, of each layer that runs ahead of the blocks
    block_sizes: tuple[int, ...]  # of each block without them
    largest: int  # bytes of the largest tensor among them
    loaded: int  # bytes of the denoiser, without an adapter's, before its weights are made small
    report: str


def load_part(setup: Setup, found: Outline, name: PartName, device: Device) -> tuple[nn.Module, ...]:
    """A part as the run loads it, on the meta device: in the run's dtype; parts from scratch in float32."""
    from_scratch = name in setup.files.from_scratch
    dtype = torch.float32 if from_scratch else setup.dtype
    frozen = not from_scratch and name not in setup.trained
    return sketched_in(latent(setup), found, name, dtype, keep_fp8=frozen and device.kind != "mps")


def sketched_in(
    family: LatentFamily, found: Outline, name: PartName, dtype: torch.dtype, *, keep_fp8: bool
) -> tuple[nn.Module, ...]:
    """A part on the meta device in a dtype; text encoders that a file has in fp8 may be held so."""
    # not diffusers' own `to`, which speaks up about what it would have loaded otherwise
    modules = tuple(nn.Module.to(module, dtype=dtype) for module in sketched(family, found, name))
    if name == "text_encoders" and keep_fp8 and name not in found.assumed:
        _hold_fp8(family, found, modules)
    return modules


def _hold_fp8(family: LatentFamily, found: Outline, encoders: Sequence[nn.Module]) -> None:
    """Linear layers of text encoders that their file has in fp8 stay so: see `Family.load`."""
    paths = family.listing.paths(found.files, "text_encoders")
    for place, path, encoder in zip(family.listing.text_encoders, paths, encoders, strict=True):
        checkpoint, key_map = place.network.find(place.network.weights(path))
        for name in stored_in_fp8(encoder, [encoder], checkpoint, key_map):
            layer: Any = encoder.get_submodule(name)
            encoder.set_submodule(name, Fp8Linear.of(layer))


def latent(setup: Setup) -> LatentFamily:
    """The run's family, as one whose parts are listed."""
    assert isinstance(setup.family, LatentFamily)
    return setup.family


def assemble(setup: Setup, found: Outline, device: Device) -> Assembled:
    """What the loop holds: parts, adapter or trained weights. Raises RecipeError and ModelError as the run would."""
    parts = Parts(info=setup.info)
    for name in setup.stays_loaded:
        give(parts, name, load_part(setup, found, name, device))
    if parts.text_encoders:
        parts.tokenizers = blank_tokenizers(latent(setup), found)
    with torch.device("meta"):  # no random starts are drawn
        trainables = make_trainables(setup.recipe, setup.family, parts)
    memory = setup.recipe.memory
    return thinned(
        setup.family,
        parts,
        weights=memory.weights,
        split_attention=memory.split_attention,
        trainables=trainables,
        full=setup.recipe.full is not None,
    )


def thinned(
    family: Family,
    parts: Parts,
    *,
    weights: Weights,
    split_attention: bool,
    trainables: Trainables | None = None,
    full: bool = False,
) -> Assembled:
    """Parts with everything on them, without those of the denoiser's blocks that repeat others.

    `weights`: those of its blocks are made small. `full`: weights that are trained may be streamed too.
    """
    trainables = trainables or Trainables(parameters={}, adapter=None, parts=(), report="")
    left_out: dict[int, int] = {}
    blocks: list[nn.Module] = []
    trained = {id(parameter) for parameter in trainables.parameters.values()}
    loaded = 0
    if parts.denoiser is not None:
        loaded = sum(t.nbytes for t in _tensors(parts.denoiser) if full or id(t) not in trained)
        attend_by(family, parts.denoiser, Attention(split=split_attention))
        whole = family.blocks(parts.denoiser)
        left_out = prune(parts.denoiser, whole, runs_of(whole))
        blocks = list(family.blocks(parts.denoiser))
        if weights != "full":  # after the adapter is put on: fewer are left, and it sits on either
            quantise_blocks(blocks, weights)
    more, more_trained = Bytes(), 0
    for place, times in left_out.items():
        held, count = _held(blocks[place], trained)
        more, more_trained = more.plus(held, times), more_trained + count * times
    layers = [] if parts.denoiser is None else family.ahead(parts.denoiser)
    ahead_sizes, block_sizes = _sizes(layers, blocks, left_out, trained=full)
    tensors = (t for block in blocks for t in block_tensors(block, trained=full))
    present = {id(tensor) for module in _modules(parts) for tensor in module.parameters()}
    parameters = {name: p for name, p in trainables.parameters.items() if id(p) in present}
    return Assembled(
        parts=parts,
        parameters=with_storage(parts, parameters),
        autocast=trainables.autocast,
        left_out=left_out,
        more=more,
        more_trained=more_trained,
        ahead_sizes=ahead_sizes,
        block_sizes=block_sizes,
        largest=max((tensor.nbytes for tensor in tensors), default=0),
        loaded=loaded,
        report=trainables.report,
    )


def give(parts: Parts, name: PartName, modules: Sequence[nn.Module]) -> None:
    """Put a part's modules in its place."""
    if name == "text_encoders":
        parts.text_encoders = tuple(modules)
    else:
        setattr(parts, name, modules[0])


def with_storage(parts: Parts, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Give every tensor of the parts a storage that is counted and never filled; the trained ones among them."""
    made: dict[int, Tensor] = {}
    for module in (inner for part in _modules(parts) for inner in part.modules()):
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None:
                    store[name] = made.setdefault(id(tensor), _counted(tensor))  # type: ignore[assignment]
    return {name: made[id(parameter)] for name, parameter in parameters.items()}  # type: ignore[misc]


def weights(parts: Parts) -> dict[Kind, list[Tensor]]:
    """All tensors of the parts that are loaded, by the part."""
    return {
        kind: [tensor for module in parts.modules(name) for tensor in _tensors(module)]
        for name, kind in KIND_OF.items()
    }


def blank_tokenizers(family: LatentFamily, found: Outline) -> tuple[Any, ...]:
    """The model's tokenizers, or stand-ins that give as many tokens as the encoders read."""
    try:
        return family.tokenizers(found.files)
    except ModelError:
        return tuple(_BlankTokenizer(place.length) for place in family.listing.text_encoders)


class _BlankTokenizer:
    """Gives zeros, as many as it is asked for."""

    def __init__(self, length: int) -> None:
        self.model_max_length = length

    def __call__(self, texts: Sequence[str], *, max_length: int, **options: Any) -> Any:
        return SimpleNamespace(input_ids=torch.zeros(len(texts), max_length, dtype=torch.int64))


def _counted(tensor: Tensor) -> Tensor:
    empty = valueless(tensor.shape, tensor.dtype)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def _modules(parts: Parts) -> list[nn.Module]:
    return [module for name in KIND_OF for module in parts.modules(name)]


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _sizes(
    layers: Sequence[nn.Module], blocks: Sequence[nn.Module], left_out: Mapping[int, int], *, trained: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bytes that may be streamed, of each of the layers that run ahead of the blocks and of each block, of all."""
    ahead: list[int] = []
    rest: list[int] = []
    for place, block in enumerate(blocks):
        inside = {id(module) for module in block.modules()}
        own = [list(block_tensors(layer, trained=trained)) for layer in layers if id(layer) in inside]
        early = {id(tensor) for tensors in own for tensor in tensors}
        times = 1 + left_out.get(place, 0)
        ahead += [sum(t.nbytes for t in tensors) for tensors in own] * times
        rest += [sum(t.nbytes for t in block_tensors(block, trained=trained) if id(t) not in early)] * times
    return tuple(ahead), tuple(rest)


def _held(block: nn.Module, trained: Container[int]) -> tuple[Bytes, int]:
    """Bytes of a denoiser's block, the trained ones apart, and how many values are trained."""
    tensors = {id(tensor): tensor for tensor in _tensors(block)}
    own = [tensor for key, tensor in tensors.items() if key in trained]
    frozen = [tensor for key, tensor in tensors.items() if key not in trained]
    held = Bytes(denoiser=sum(t.nbytes for t in frozen), trained=sum(t.nbytes for t in own))
    return held, sum(tensor.numel() for tensor in own)
