"""Optimizers of other packages, by the import path of their class: found, tried out, put to work."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from velatura.errors import RecipeError
from velatura.recipe.training.optimizer import Optimizer
from velatura.training.optimizers.by_tensor import decayed
from velatura.training.optimizers.saving import optimizer_tensors, set_optimizer_tensors

_LIKE = 'optimizer.kind = "{}"'
_PACKAGES = {"lion_pytorch": "lion-pytorch"}  # where pip's name is another


def optimizer_class(kind: str) -> type[torch.optim.Optimizer]:
    """The class at `package.Class` or `package.module:Class`. Raises RecipeError where there is none."""
    said = _LIKE.format(kind)
    module_name, _, name = kind.partition(":") if ":" in kind else kind.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == (package := module_name.split(".")[0]):
            raise RecipeError(
                f"{said}: the package {package} is not installed here; pip install {_PACKAGES.get(package, package)}"
            ) from None
        raise RecipeError(f"{said}: {module_name} cannot be imported ({error})") from error
    except Exception as error:  # whatever a foreign package does when it is imported
        raise RecipeError(f"{said}: {module_name} cannot be imported ({_told(error)})") from error
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        what = f"has no {name}" if found is None else f"has {name}, which is no class of optimizers"
        known = [key for key, value in vars(module).items() if _is_optimizer(value)]
        raise RecipeError(f"{said}: {module_name} {what}; it has {', '.join(known) or 'none'}")
    return found


def make_by_path(section: Optimizer, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The class with the recipe's learning rate and options, ready to train. Raises RecipeError."""
    options: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in section.options.items()
    }
    groups: list[dict[str, Any]] = [{"params": list(parameters.values())}]
    if "weight_decay" in options:  # as everywhere, vectors get none
        groups = decayed(parameters, float(options["weight_decay"]))
    made: Callable[..., torch.optim.Optimizer] = optimizer_class(section.kind)
    try:
        optimizer = made(groups, lr=section.learning_rate, **options)
    except Exception as error:  # of their own making, for values that they do not like
        raise RecipeError(
            f"{_LIKE.format(section.kind)}: [optimizer.options] does not fit ({_told(error)})"
        ) from error
    if averages(optimizer):
        optimizer.train()  # type: ignore[attr-defined]
    return optimizer


def try_out(section: Optimizer, device: torch.device) -> bool:
    """Make a few steps with a small tensor. Whether an optimizer that is stopped and restored makes the same ones.

    Raises RecipeError for what cannot be imported, made, stepped or saved.
    """
    straight, stopped, resumed = (_small(device) for _ in range(3))
    one, two, three = (make_by_path(section, parameters) for parameters in (straight, stopped, resumed))
    try:
        for count in range(4):
            _step(one, straight, count)
        for count in range(2):
            _step(two, stopped, count)
        with torch.no_grad():
            resumed["x"].copy_(stopped["x"])
        state = optimizer_tensors(two, stopped, groups=True)
        set_optimizer_tensors(three, resumed, {key: value.cpu().clone() for key, value in state.items()})
        for count in range(2, 4):
            _step(three, resumed, count)
    except Exception as error:  # theirs, of any kind
        raise RecipeError(
            f"{_LIKE.format(section.kind)} does not work in this trainer ({_told(error)})"
        ) from error
    return torch.equal(straight["x"], resumed["x"])


def bytes_per_value(section: Optimizer) -> float:
    """Bytes of state for each trained value, as measured with a small tensor on the CPU. Raises RecipeError."""
    parameters = _small(torch.device("cpu"))
    optimizer = make_by_path(section, parameters)
    _step(optimizer, parameters, 0)
    state = optimizer_tensors(optimizer, parameters)
    return sum(t.nbytes for t in state.values() if t.ndim) / parameters["x"].numel()


def averages(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the weights to be used are others than those that are trained: schedule-free ones have `eval`."""
    return callable(getattr(optimizer, "eval", None)) and callable(getattr(optimizer, "train", None))


@contextmanager
def usable_weights(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Within the block the weights are those to be used; afterwards those that are trained, bit for bit."""
    if not averages(optimizer):
        yield
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own = [parameter.detach().clone() for parameter in parameters]
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter, value in zip(parameters, own, strict=True):
                parameter.copy_(value)  # its way back is exact only up to rounding


def _small(device: torch.device) -> dict[str, nn.Parameter]:
    return {"x": nn.Parameter(torch.linspace(-1, 1, 64, device=device).view(8, 8))}


def _step(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], count: int) -> None:
    for parameter in parameters.values():
        parameter.grad = torch.sin(parameter.detach() * 3 + count)
    optimizer.step()


def _is_optimizer(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, torch.optim.Optimizer)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
