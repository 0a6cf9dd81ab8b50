"""What a run trains: an adapter's values, or the weights of whole parts."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Trainables:
    """Named parameters that the optimizer moves. `adapter` is None when whole parts are trained."""

    parameters: Mapping[str, nn.Parameter]
    adapter: Adapter | None
    parts: tuple[PartName, ...]
    report: str

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
            parameter.copy_(values[name])

    @property
    def count(self) -> int:
        """Trained values."""
        return sum(parameter.numel() for parameter in self.parameters.values())


def make_trainables(recipe: Recipe, family: Family, parts: Parts) -> Trainables:
    """Put the adapter on, or turn on gradients of whole parts (in float32)."""
    if recipe.adapter is not None:
        return _adapter(recipe.adapter, recipe.seed, family, parts)
    assert recipe.full is not None
    return _full(recipe.full, parts)


def _adapter(section: LoraAdapter, seed: int, family: Family, parts: Parts) -> Trainables:
    denoiser = parts.denoiser
    if denoiser is None:
        raise ModelError("an adapter sits on the denoiser, and it is not loaded")
    if section.init_from is not None:
        adapter, report = _continued(Path(section.init_from), denoiser)
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
    return Trainables(parameters=parameters, adapter=adapter, parts=("denoiser",), report=report)


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
    parameters: dict[str, nn.Parameter] = {}
    for name in names:
        modules = parts.modules(name)
        if not modules:
            raise ModelError(f"full.parts names '{name}', which this objective does not load")
        for index, module in enumerate(modules):
            module.float()  # and still in eval mode: T5's dropout would draw numbers that nobody counts
            prefix = name if len(modules) == 1 else f"{name}[{index}]"
            for path, parameter in module.named_parameters():
                if section.only is None or fnmatch.fnmatchcase(path, section.only):
                    parameter.requires_grad_(True)
                    parameters[f"{prefix}.{path}"] = parameter
    if not parameters:
        raise RecipeError(f"full.only = '{section.only}' matches no weight of {', '.join(names)}")
    count = sum(parameter.numel() for parameter in parameters.values())
    return Trainables(
        parameters=parameters,
        adapter=None,
        parts=tuple(names),
        report=f"{counted(count, 'weight')} of {', '.join(names)}",
    )
