"""Filling a module that was built without weights, one parameter at a time, straight in its final dtype."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from velatura.checkpoints.checkpoint import Checkpoint
from velatura.checkpoints.keymap import KeyMap, Origin
from velatura.errors import CheckpointError, ModelError
from velatura.plural import counted

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_LISTED = 5
_registration = threading.RLock()
_DRAWN = ("normal_", "uniform_", "kaiming_uniform_")  # of tensors or `nn.init`, which libraries wrap


def skeleton(build: Callable[[], ModuleT]) -> ModuleT:
    """Build a module whose parameters are on the meta device and whose buffers hold their true values.

    Buffers that no file has (position ids, rotary tables) are computed by constructors: under
    `torch.device("meta")` they would be lost.
    """
    with _parameters_on_meta(), _Undrawn():
        return build()


class _Undrawn(TorchFunctionMode):
    """Leaves out the random starts of tensors without values, which cost more than all else about them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensor = args[0] if args else (kwargs or {}).get("tensor")
        if getattr(func, "__name__", "") in _DRAWN and isinstance(tensor, Tensor) and tensor.is_meta:
            return tensor
        return func(*args, **(kwargs or {}))


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    original = nn.Module.register_parameter
    builder = threading.get_ident()

    def register(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        mine = threading.get_ident() == builder
        if param is not None and mine and not param.is_meta:  # what is on meta already may be tied: keep it
            kind = type(param)
            extra: dict[str, Any] = {k: v for k, v in vars(param).items() if k != "requires_grad"}
            param = kind(param.detach().to("meta"), requires_grad=param.requires_grad)
            vars(param).update(extra)
        original(self, name, param)

    with _registration:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.register_parameter = original  # type: ignore[method-assign]


def load_into(
    module: nn.Module,
    checkpoint: Checkpoint,
    key_map: KeyMap,
    *,
    dtype: torch.dtype | None,
    device: torch.device | str = "cpu",
    what: str,
    ignore: Iterable[str] = (),
    later: Collection[str] = (),
) -> None:
    """Give every parameter and stored buffer of `module` its tensor from `checkpoint`, in place.

    dtype: of the floating tensors; None keeps them as stored. `what` names the part in messages ("FLUX
    denoiser"). `ignore` are patterns of the file's names that may be left over. `later` are names whose tensors must be
    there, and are left for others to read. Parameters that the module
    ties stay tied. Raises ModelError when anything is missing, left over, or would stay on the meta device;
    CheckpointError for a wrong shape. On an error the module may be half filled: throw it away.
    """
    state = module.state_dict(keep_vars=True)
    origins = key_map.origins({name: tuple(tensor.shape) for name, tensor in state.items()})
    groups = _tied(state)
    sources = {names: _first_present(names, origins, checkpoint) for names in groups}
    _check_complete(checkpoint, origins, sources, what, tuple(ignore))
    for names, source in sources.items():
        if names[0] in later:
            continue
        tensor = state[names[0]]
        if source is None:
            raise AssertionError("checked above")
        wanted = dtype if tensor.is_floating_point() else tensor.dtype
        try:
            value = origins[source].read(checkpoint, tuple(tensor.shape), dtype=wanted, device=device)
        except CheckpointError as error:
            raise type(error)(f"{what}: {error} ('{source}' of the module)") from error
        _place(module, names, value, tensor)
    _move_other_buffers(module, set(state), device, what)


def _tied(state: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """Names grouped by the tensor that they share."""
    groups: dict[int, list[str]] = {}
    for name, tensor in state.items():
        groups.setdefault(id(tensor), []).append(name)
    return [tuple(names) for names in groups.values()]


def _first_present(
    names: tuple[str, ...], origins: Mapping[str, Origin], checkpoint: Checkpoint
) -> str | None:
    return next((name for name in names if origins[name].key in checkpoint), None)


def _check_complete(
    checkpoint: Checkpoint,
    origins: Mapping[str, Origin],
    sources: Mapping[tuple[str, ...], str | None],
    what: str,
    ignore: tuple[str, ...],
) -> None:
    missing = sorted({origins[names[0]].key for names, source in sources.items() if source is None})
    used = {origin.key for origin in origins.values()}
    extra = [key for key in checkpoint if key not in used]
    extra = [key for key in extra if not any(fnmatchcase(key, pattern) for pattern in ignore)]
    if not missing and not extra:
        return
    found = []
    if missing:
        found.append(f"{counted(len(missing), 'tensor is', 'tensors are')} missing ({_some(missing)})")
    if extra:
        found.append(f"{counted(len(extra), 'has', 'have')} no place in it ({_some(extra)})")
    raise ModelError(
        f"{checkpoint.name} does not fit the {what}: {'; '.join(found)}. Is it another model, or a part?"
    )


def _some(names: list[str]) -> str:
    more = f", … {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _place(module: nn.Module, names: tuple[str, ...], value: Tensor, old: Tensor) -> None:
    """Put `value` where `old` was, as a parameter if it was one, under all the names that shared it."""
    new = nn.Parameter(value, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else value
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        table = owner._parameters if leaf in owner._parameters else owner._buffers
        table[leaf] = new  # type: ignore[assignment]


def _move_other_buffers(module: nn.Module, stored: set[str], device: torch.device | str, what: str) -> None:
    """Buffers that files do not have: keep their values and dtypes, move them along."""
    for path, owner in module.named_modules():
        for leaf, buffer in owner._buffers.items():
            name = f"{path}.{leaf}" if path else leaf
            if buffer is None or name in stored:
                continue
            if buffer.is_meta:
                raise ModelError(
                    f"{what}: the buffer '{name}' has no values; build the module with skeleton()."
                )
            owner._buffers[leaf] = buffer.to(device)
