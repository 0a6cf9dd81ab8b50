"""Tables of rules that say which tensor of a file is which parameter of a module, in both directions.

A rule joins one place in the file with one or more places in the module: the file's tensor is the module's
tensors put below each other (`double_blocks.0.img_attn.qkv` = rows of `to_q`, then `to_k`, then `to_v`).
Places are dotted prefixes: a rule for `a.b` speaks for `a.b.weight` and `a.b.bias`. Where several prefixes
fit the longest counts. Sizes come from the shapes at hand, so a table serves every width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from velatura.checkpoints.checkpoint import Checkpoint, Rows, Shape
from velatura.checkpoints.pending import Pending
from velatura.errors import CheckpointError, ModelError

Form = Literal["same", "swapped_halves", "conv_1x1"]


@dataclass(frozen=True)
class Rule:  # positional, unlike our other values: a table of two hundred reads better so
    """`file` holds the rows of `module`'s places, in order.

    form: "same"; "swapped_halves": the file has the second half of the rows first; "conv_1x1": the file has a
    1x1 convolution `[out, in, 1, 1]` where the module has a linear layer `[out, in]`.
    """

    file: str
    module: str | tuple[str, ...]
    form: Form = "same"

    @property
    def places(self) -> tuple[str, ...]:
        """`module` as a tuple."""
        return (self.module,) if isinstance(self.module, str) else self.module


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a parameter comes from: rows of the file's tensor `key`, which has `total` rows in all."""

    key: str
    rows: Rows
    total: int
    form: Form

    def file_shape(self, shape: Shape) -> Shape:
        """The shape that the file's whole tensor must have for a parameter of `shape`."""
        if not shape:
            return ()
        ones = (1, 1) if self.form == "conv_1x1" and len(shape) == 2 else ()
        return (self.total, *shape[1:], *ones)

    def read(
        self,
        checkpoint: Checkpoint,
        shape: Shape,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """The parameter of `shape`; only its own rows are read. Raises CheckpointError for a wrong shape."""
        found = self._checked(checkpoint, shape)
        rows = self.rows if found else None
        if self.form == "swapped_halves" and rows is not None:
            half = (rows[0] + rows[1]) // 2
            halves = ((half, rows[1]), (rows[0], half))
            return torch.cat(
                [checkpoint.read(self.key, rows=part, dtype=dtype, device=device) for part in halves]
            )
        return checkpoint.read(self.key, rows=rows, dtype=dtype, device=device).reshape(shape)

    def in_fp8(self, checkpoint: Checkpoint) -> bool:
        """Whether `read_fp8` can be asked for it."""
        return self.form == "same" and self.key in checkpoint and checkpoint.in_fp8(self.key)

    def read_fp8(
        self, checkpoint: Checkpoint, shape: Shape, *, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """The parameter as `Checkpoint.read_fp8` gives it. Raises CheckpointError for a wrong shape."""
        self._checked(checkpoint, shape)
        return checkpoint.read_fp8(self.key, rows=self.rows, device=device)

    def _checked(self, checkpoint: Checkpoint, shape: Shape) -> Shape:
        """The shape of the file's whole tensor. Raises CheckpointError for a wrong one."""
        found, wanted = checkpoint.shape(self.key), self.file_shape(shape)
        if found not in (wanted, (self.total, *shape[1:]) if shape else ()):
            raise CheckpointError(f"{checkpoint.name}: '{self.key}' has shape {found}, expected {wanted}.")
        return found


class KeyMap:
    """Rules, ready to be asked from the module's side and from the file's side."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._by_place = {place: rule for rule in self.rules for place in rule.places}
        self._by_file = {rule.file: rule for rule in self.rules}
        if len(self._by_place) != sum(len(rule.places) for rule in self.rules):
            raise ValueError("two rules speak for one place of the module")

    def file_name(self, name: str) -> str:
        """The name in the file of the tensor that holds the parameter `name`. Raises ModelError."""
        match = self.rule_for(name)
        if match is None:
            raise ModelError(f"The key map has no rule for '{name}'; is this module of another kind?")
        rule, _, rest = match
        return join(rule.file, rest)

    @classmethod
    def same(cls) -> KeyMap:
        """The file has the module's own names."""
        return cls([Rule("", "")])

    def rule_for(self, name: str) -> tuple[Rule, int, str] | None:
        """(rule, which of its places, the rest of the name) for a name in the module; None without a rule."""
        for place, rest in _prefixes(name):
            if (rule := self._by_place.get(place)) is not None:
                return rule, rule.places.index(place), rest
        return None

    def rule_for_file(self, key: str) -> tuple[Rule, str] | None:
        """(rule, the rest of the name) for a name in the file; None if there is no rule."""
        for place, rest in _prefixes(key):
            if (rule := self._by_file.get(place)) is not None:
                return rule, rest
        return None

    def origins(self, shapes: Mapping[str, Shape]) -> dict[str, Origin]:
        """Where each parameter comes from; `shapes` are those of the whole module. Raises ModelError."""
        return {name: self._origin(name, shapes) for name in shapes}

    def _origin(self, name: str, shapes: Mapping[str, Shape]) -> Origin:
        key = self.file_name(name)
        rule, position, rest = self.rule_for(name) or (Rule("", ""), 0, name)
        siblings = [join(place, rest) for place in rule.places]
        if absent := [sibling for sibling in siblings if sibling not in shapes]:
            raise ModelError(
                f"'{name}' shares '{rule.file}' with '{absent[0]}', which the module does not have."
            )
        counts = [shapes[sibling][0] if shapes[sibling] else 1 for sibling in siblings]
        start = sum(counts[:position])
        form = rule.form if rule.form != "conv_1x1" or len(shapes[name]) == 2 else "same"
        rows = (start, start + counts[position])
        return Origin(key=key, rows=rows, total=sum(counts), form=form)

    def to_file(
        self, tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None
    ) -> dict[str, Pending]:
        """The module's tensors as the file has them, each made only when it is written."""
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        groups: dict[str, list[tuple[Origin, str]]] = {}
        for name, origin in self.origins(shapes).items():
            groups.setdefault(origin.key, []).append((origin, name))
        return {key: _whole(group, tensors, dtype) for key, group in groups.items()}


def join(place: str, rest: str) -> str:
    """Dotted name from a prefix and a remainder, either of which may be empty."""
    return f"{place}.{rest}" if place and rest else place or rest


def _prefixes(name: str) -> Iterable[tuple[str, str]]:
    """(prefix, rest) from the whole name down to the empty prefix."""
    parts = name.split(".")
    for count in range(len(parts), -1, -1):
        yield ".".join(parts[:count]), ".".join(parts[count:])


def _whole(
    group: list[tuple[Origin, str]], tensors: Mapping[str, Tensor], dtype: torch.dtype | None
) -> Pending:
    names = [name for _, name in sorted(group, key=lambda member: member[0].rows)]
    origin, first = group[0]
    kind = dtype if dtype is not None and tensors[first].is_floating_point() else tensors[first].dtype
    shape = origin.file_shape(tuple(tensors[first].shape))

    def make() -> Tensor:
        parts = [tensors[name].detach().to(kind) for name in names]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        if origin.form == "swapped_halves":
            half = whole.shape[0] // 2
            whole = torch.cat([whole[half:], whole[:half]])
        return whole.reshape(shape)

    return Pending(shape=shape, dtype=kind, make=make)
