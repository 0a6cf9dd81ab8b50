"""An optimizer's state as named tensors, and back, exactly; whatever class it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from velatura.training.distribution.sharding import spread
from velatura.training.optimizers.apart import apart

_PLAIN = {"bool": torch.bool, "int": torch.int64, "float": torch.float64}  # Python's own values, as tensors
_NONE = "none"
_GROUPS = "groups"  # first part of the keys of what a class keeps beside its parameters
_GIVEN = ("params", "lr", "weight_decay")  # of a group; by the recipe


class Unstorable(TypeError):
    """A value that cannot be kept in a state; says what and where it is."""


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], *, groups: bool = False
) -> dict[str, Tensor]:
    """The state by `<parameter>/<moment>`; a number is a tensor at `<parameter>/<moment>:<type>`.

    `groups`: with what the optimizer itself changed in its groups, at `groups.0/<key>`. Raises Unstorable.
    """
    found = {
        key: tensor
        for name, parameter in parameters.items()
        for moment, value in optimizer.state.get(parameter, {}).items()
        for key, tensor in [_stored(f"{name}/{moment}", value)]
    }
    if groups:
        found |= dict(_stored(f"{_GROUPS}.{key}", value) for key, value in _changed(optimizer))
    return found


def set_optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`."""
    on_device = {p for group in optimizer.param_groups for p in group["params"] if _counts_on_device(group)}
    for key, tensor in tensors.items():
        owner, _, moment = key.rpartition("/")
        moment, _, kind = moment.partition(":")
        if owner not in parameters:
            index = int(owner.removeprefix(f"{_GROUPS}."))
            optimizer.param_groups[index][moment] = _plain(tensor, kind) if kind else tensor
            continue
        parameter = parameters[owner]
        if kind:
            value = _plain(tensor, kind)
        elif moment == "step" and parameter not in on_device:
            value = tensor
        else:
            moved = tensor.to(_device(optimizer, parameter, tensor))
            value = spread(moved, parameter) if moved.shape == parameter.shape else moved
        optimizer.state[parameter][moment] = value


def _device(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, value: Tensor) -> torch.device:
    """Where a value of a parameter's state is between updates."""
    found = apart(optimizer)
    return parameter.device if found is None or found.visits is None else found.visits.home(value)


def _changed(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    for index, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            usual = optimizer.defaults.get(key, ...)
            if key not in _GIVEN and (isinstance(value, Tensor) or value != usual):
                yield f"{index}/{key}", value


def _counts_on_device(group: Mapping[str, Any]) -> bool:
    """Torch's fused kernels read the number of steps where the parameters are."""
    return bool(group.get("fused") or group.get("capturable"))


def _stored(key: str, value: Any) -> tuple[str, Tensor]:
    if type(value) in (Tensor, nn.Parameter, DTensor):
        return key, value.detach()
    if value is None:
        return f"{key}:{_NONE}", torch.zeros(0)
    if (kind := type(value).__name__) in _PLAIN:
        return f"{key}:{kind}", torch.tensor(value, dtype=_PLAIN[kind])
    raise Unstorable(f"'{key.rpartition('/')[2]}' is {kind}, and only tensors and numbers can be saved")


def _plain(tensor: Tensor, kind: str) -> Any:
    return None if kind == _NONE else tensor.item()
