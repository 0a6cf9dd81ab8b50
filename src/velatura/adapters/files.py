"""Adapter files: between LoRA layers on a model and the layouts on disk."""
from __future__ import annotations
from velatura.interfaces import Target


def read_values(path, targets):
    raise NotImplementedError


def write_adapter(path, adapter, targets, *, layout, dtype, metadata):
    raise NotImplementedError
