"""The groups of a store, of which memory keeps as many as there is room for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from velatura.data.caches.blocks import Group
from velatura.data.caches.memory import Kept
from velatura.data.caches.shards import ShardStore


class KeptGroups:
    """Reads groups from memory or else from the disk; keeps them up to `memory_limit` bytes."""

    def __init__(self, store: ShardStore, memory_limit: int) -> None:
        self.store = store
        self._kept: Kept[str, Group] = Kept(memory_limit)

    def missing(self, keys: Iterable[str]) -> set[str]:
        """Those that are not there. Those that fit in memory are read, checked and kept meanwhile."""
        wanted = set(keys)
        for key, group in self.store.read([key for key in wanted if self._kept.get(key) is None]):
            if not self.offer(key, group):
                break
        return {key for key in wanted if key not in self.store}

    def offer(self, key: str, group: Group) -> bool:
        """Keep a group if there is room; True when it is kept now."""
        return self._kept.offer(key, group, _size(group))

    def get(self, key: str) -> Group | None:
        """A group; None where it is not there, or not sound."""
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        for _, group in self.store.read([key]):
            self.offer(key, group)
            return group
        return None

    def room(self, key: str, count: int) -> Group | None:
        """Tensors `[count, ...]` for so many groups of one's form, not filled yet; None where that is not there."""
        form = self.store.form(key) or self.get(key)
        return form and {name: torch.empty((count, *t.shape), dtype=t.dtype) for name, t in form.items()}

    def read_into(self, key: str, place: Group, what: str) -> bool:
        """Fill contiguous tensors with a group: straight from the disk where memory is full.

        False when it is not there, or not sound. Raises ValueError, which says `what`, when it is of another form.
        """
        form = self.store.form(key)
        if form is None or self._kept.get(key) is not None or self._kept.takes(_size(place)):
            found = self.get(key)
            if found is None:
                return False
            _check_form(found, place, what)
            for name, tensor in place.items():
                tensor.copy_(found[name])
            return True
        _check_form(form, place, what)
        return self.store.read_into(key, place)


def _size(group: Group) -> int:
    return sum(tensor.nbytes for tensor in group.values())


def _check_form(found: Mapping[str, Tensor], place: Mapping[str, Tensor], what: str) -> None:
    forms = [{name: (t.dtype, tuple(t.shape)) for name, t in one.items()} for one in (found, place)]
    if forms[0] != forms[1]:
        raise ValueError(f"{what} is {forms[0]}, and others of its batch {forms[1]}")
