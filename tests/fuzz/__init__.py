"""Readers fed with files that lie: what each makes of them must be a result or one of our own errors."""

from __future__ import annotations

from . import checkpoints, images, other_tools, shards, states, tables, texts

_ROOMS = (checkpoints, images, shards, tables, other_tools, texts, states)
TARGETS = tuple(target for room in _ROOMS for target in room.TARGETS)
