"""How groups of tensors lie in a shard: groups of one form are stacked, so that thousands are read at once.

Groups whose tensors have the same names, dtypes and shapes make a block: for each name one tensor `<block>/<name>`
with a row per group. The file's metadata has the keys and the checksums of a block's rows, in order.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO

import torch
from torch import Tensor

from velatura.checkpoints.header import Entry, Header
from velatura.errors import CheckpointError

Group = dict[str, Tensor]

_PIECE = 256 * 1024  # bytes that are read and checked at once


@dataclass(frozen=True, kw_only=True)
class Block:
    """Where the rows of one block lie in the file."""

    keys: tuple[str, ...]
    checksums: tuple[str, ...]
    entries: Mapping[str, Entry]  # name -> all rows, `[N, ...]`


def pack(groups: Mapping[str, Group]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a shard."""
    forms: dict[str, list[str]] = {}
    for key, group in groups.items():
        forms.setdefault(_form(group), []).append(key)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for number, (form, keys) in enumerate(forms.items()):
        names = sorted(groups[keys[0]])
        stacks = {name: torch.stack([groups[key][name] for key in keys]) for name in names}
        tensors |= {f"{number}/{name}": stack for name, stack in stacks.items()}
        metadata[f"{number}/keys"] = " ".join(keys)
        metadata[f"{number}/checksums"] = " ".join(_checksums(form, stacks))
    return tensors, metadata


def blocks_of(header: Header) -> list[Block]:
    """The blocks of a shard. Raises CheckpointError when header and metadata do not agree."""
    entries: dict[str, dict[str, Entry]] = {}
    for full_name, entry in header.entries.items():
        number, _, name = full_name.partition("/")
        entries.setdefault(number, {})[name] = entry
    blocks = []
    for number, stacks in entries.items():
        keys = tuple(header.metadata.get(f"{number}/keys", "").split())
        checksums = tuple(header.metadata.get(f"{number}/checksums", "").split())
        if len(keys) != len(checksums) or any(stack.shape[:1] != (len(keys),) for stack in stacks.values()):
            raise CheckpointError("its list of keys does not fit its tensors")
        blocks.append(Block(keys=keys, checksums=checksums, entries=stacks))
    return blocks


def read_rows(file: FileIO, block: Block, rows: Sequence[int]) -> Iterator[tuple[str, Group]]:
    """The groups at `rows`, ascending.

    If they are half of the block or more, it is read in one piece, and the groups are views of it. Raises
    CheckpointError on a wrong checksum.
    """
    runs = [range(len(block.keys))] if 2 * len(rows) >= len(block.keys) else [range(r, r + 1) for r in rows]
    wanted = set(rows)
    for run in runs:
        stacks = {name: _read(file, entry, run) for name, entry in block.entries.items()}
        checksums = _checksums(_form({name: stack[0] for name, stack in stacks.items()}), stacks)
        unbound = {name: stack.unbind(0) for name, stack in stacks.items()}
        for position, row in enumerate(run):
            if row in wanted:
                if checksums[position] != block.checksums[row]:
                    raise CheckpointError("a checksum is wrong")
                yield block.keys[row], {name: tensors[position] for name, tensors in unbound.items()}


def read_row_into(file: FileIO, block: Block, row: int, group: Group) -> None:
    """One group, read into contiguous tensors of its form. Raises CheckpointError on a wrong checksum."""
    total = zlib.crc32(_form(group).encode())
    for name, entry in sorted(block.entries.items()):
        for piece in _filled(group[name], file, entry, row, _PIECE):
            total = zlib.crc32(piece, total)  # while the processor's cache has it
    if f"{total:08x}" != block.checksums[row]:
        raise CheckpointError("a checksum is wrong")


def _form(group: Group) -> str:
    """Names, dtypes and shapes."""
    return " ".join(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}" for name, tensor in sorted(group.items()))


def _checksums(form: str, stacks: Mapping[str, Tensor]) -> list[str]:
    """Per row, over the form and all bytes."""
    rows = len(next(iter(stacks.values())))
    totals = [zlib.crc32(form.encode())] * rows
    for name in sorted(stacks):
        if stacks[name].numel():
            flat = stacks[name].view(rows, -1).view(torch.uint8).numpy()
            totals = [zlib.crc32(row.data, total) for row, total in zip(flat, totals, strict=True)]
    return [f"{total:08x}" for total in totals]


def _read(file: FileIO, entry: Entry, rows: range) -> Tensor:
    """Some rows of a stack, `[len(rows), ...]`."""
    tensor = torch.empty((len(rows), *entry.shape[1:]), dtype=entry.dtype)
    for _ in _filled(tensor, file, entry, rows.start):
        pass
    return tensor


def _filled(
    rows: Tensor, file: FileIO, entry: Entry, first: int, piece: int | None = None
) -> Iterator[memoryview]:
    """Read the rows of a stack from `first` on, as many as there is room for; gives the bytes, `piece` at a time."""
    if not rows.numel():
        return
    view = rows.view(-1).view(torch.uint8).numpy().data
    file.seek(entry.start + first * (entry.stop - entry.start) // entry.shape[0])
    while view:
        count = file.readinto(view[:piece])
        if not count:
            raise CheckpointError("it ends too early")
        yield view[:count]
        view = view[count:]
