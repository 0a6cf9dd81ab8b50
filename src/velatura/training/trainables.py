"""What a run trains: an adapter's values, or the weights of whole parts."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from velatura.adapters.attach import Adapter, put_on, put_on_fresh
from velatura.adapters.files import read_adapter
from velatura.adapters.targets import choose
from velatura.errors import CheckpointError, ModelError, RecipeError
from velatura.interfaces import Family, PartName, Parts
from velatura.plural import counted
from velatura.recipe.adapters.lora import LoraAdapter
from velatura.recipe.recipe import Recipe
from velatura.recipe.training.loop import Full
from velatura.training.distribution.sharding import spread


@dataclass(frozen=True, kw_only=True)
class Trainables:
    """Named parameters that the optimizer moves. `adapter` is None when whole parts are trained."""

    parameters: Mapping[str, nn.Parameter]
    adapter: Adapter | None
    parts: tuple[PartName, ...]
    report: str
    autocast: bool = False  # whether float32 weights are computed with in the run's precision
    remark: str = ""  # what of the recipe has no effect

    def values(self) -> dict[str, Tensor]:
        """The current values by name."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def set_values(self, values: Mapping[str, Tensor]) -> None:
        """Overwrite all values. Raises CheckpointError when names or shapes differ."""
        if values.keys() != self.parameters.keys():
            differing = sorted(values.keys() ^ self.parameters.keys())
            count = counted(len(differing), "name differs", "names differ")
            raise CheckpointError(f"the saved values are of another run: {count}, {differing[:3]}")
        for name, parameter in self.parameters.items():
            if parameter.shape != values[name].shape:
                raise CheckpointError(
                    f"'{name}' is {list(parameter.shape)} here and {list(values[name].shape)} in the saved values"
                )
            parameter.copy_(spread(values[name], parameter))

    def renewed(self, parts: Parts) -> Trainables:
        """The same weights of whole parts, where the parameters that hold them were replaced."""
        found = {name: p for part in self.parts for name, _, p in _named(part, parts.modules(part))}
        return replace(self, parameters={name: found[name] for name in self.parameters})

    @property
    def count(self) -> int:
        """Trained values."""
        return sum(parameter.numel() for parameter in self.parameters.values())


def make_trainables(recipe: Recipe, family: Family, parts: Parts) -> Trainables:
    """Put the adapter on, or turn on gradients of whole parts."""
    if recipe.adapter is not None:
        return _adapter(recipe.adapter, recipe.seed, family, parts)
    assert recipe.full is not None
    return _full(recipe.full, parts)


def _adapter(section: LoraAdapter, seed: int, family: Family, parts: Parts) -> Trainables:
    denoiser, remark = parts.denoiser, ""
    if denoiser is None:
        raise ModelError("an adapter sits on the denoiser, and it is not loaded")
    if section.init_from is not None and Path(section.init_from).is_file():
        adapter, report = _continued(Path(section.init_from), denoiser)
        remark = _overruled(section, adapter)
    else:
        choice = choose(family.targets(denoiser), section.targets)
        alpha = float(section.rank) if section.alpha is None else section.alpha
        adapter = put_on_fresh(
            denoiser, choice.targets, rank=section.rank, alpha=alpha, seed=seed, share_down=section.share_down
        )
        report = choice.report()
    parameters = adapter.parameters()
    for parameter in parameters.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_()
    return Trainables(
        parameters=parameters, adapter=adapter, parts=("denoiser",), report=report, remark=remark
    )


def _overruled(section: LoraAdapter, adapter: Adapter) -> str:
    """A rank that the recipe states beside a file that has another one."""
    ranks = sorted({layer.rank for layer in adapter.layers.values()})
    if "rank" not in section.model_fields_set or ranks == [section.rank]:
        return ""
    own = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks from {ranks[0]} to {ranks[-1]}"
    return f"adapter.rank = {section.rank} has no effect: what is trained has {own}, as {section.init_from} has it"


def _continued(path: Path, denoiser: nn.Module) -> tuple[Adapter, str]:
    """The layers of a LoRA file, trained on."""
    found = read_adapter(path)
    others = sorted(part for part in found if part != "denoiser")
    if others or "denoiser" not in found:
        raise CheckpointError(
            f"adapter.init_from: {path} holds layers for {', '.join(others) or 'nothing'}; only LoRAs of the denoiser "
            "alone can be continued"
        )
    try:
        adapter = put_on(denoiser, found["denoiser"])
    except CheckpointError as error:
        raise CheckpointError(f"adapter.init_from: {path}: {error}") from None
    return adapter, f"{counted(len(adapter.layers), 'layer')} continued from {path}"


def _full(section: Full, parts: Parts) -> Trainables:
    names: Sequence[PartName] = section.parts
    dtype = torch.bfloat16 if section.weights == "bf16" else torch.float32
    parameters: dict[str, nn.Parameter] = {}
    for name in names:
        modules = parts.modules(name)
        if not modules:
            raise ModelError(f"full.parts names '{name}', which this objective does not load")
        for module in modules:
            # still in eval mode: T5's dropout would draw numbers that nobody counts
            nn.Module.to(module, dtype=dtype)  # not diffusers' own `to`, which speaks up
        for full_name, path, parameter in _named(name, modules):
            if section.only is None or fnmatch.fnmatchcase(path, section.only):
                parameter.requires_grad_(True)
                parameters[full_name] = parameter
    if not parameters:
        raise RecipeError(f"full.only = '{section.only}' matches no weight of {', '.join(names)}")
    count = sum(parameter.numel() for parameter in parameters.values())
    return Trainables(
        parameters=parameters,
        adapter=None,
        parts=tuple(names),
        report=f"{counted(count, 'weight')} of {', '.join(names)}"
        + (" in bf16" if dtype == torch.bfloat16 else ""),
        autocast=dtype == torch.float32,
    )


def _named(part: PartName, modules: Sequence[nn.Module]) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Full name, path in the module, and parameter."""
    for index, module in enumerate(modules):
        prefix = part if len(modules) == 1 else f"{part}[{index}]"
        for path, parameter in module.named_parameters():
            yield f"{prefix}.{path}", path, parameter
