"""Reading safetensors files one tensor, or a few rows of one, at a time.

Bytes are read with plain file reads straight into the tensor that is returned. Nothing is mapped, so what a
process holds is what it asked for: at most the target plus `CHUNK_BYTES`.
"""

from __future__ import annotations

import threading
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from velatura.checkpoints.checkpoint import Checkpoint, Rows
from velatura.checkpoints.header import read_header
from velatura.errors import CheckpointError

CHUNK_BYTES = 8 * 1024 * 1024  # staging for dtype changes and other devices


class TensorFile(Checkpoint):
    """One safetensors file: its header is checked at opening, tensors are read when they are asked for.

    May be shared between threads; reads then take turns. Close it, or use it in a `with` statement.
    Raises CheckpointError for a file that is missing, damaged or hostile.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = open_file(self.path)
        self._lock = threading.Lock()
        self._staging: Tensor | None = None
        try:
            header = read_header(self._file, self.path)
        except BaseException:
            self._file.close()
            raise
        self._entries = header.entries
        super().__init__(header.entries, name=str(path), paths=(self.path,), metadata=header.metadata)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def close(self) -> None:
        """Close the file; later reads raise."""
        self._file.close()
        self._staging = None

    def _read(self, key: str, rows: Rows, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        entry = self._entries[key]
        start, stop = rows
        shape = (stop - start, *entry.shape[1:]) if entry.shape else ()
        target = torch.empty(shape, dtype=dtype, device=device)
        if target.is_meta:  # whoever asks for a tensor without values wants to know whether all fits
            return target
        row_bytes = (entry.stop - entry.start) // max(entry.all_rows[1], 1)
        self._fill(target, entry.dtype, entry.start + start * row_bytes, key)
        return target

    def _fill(self, target: Tensor, stored: torch.dtype, offset: int, key: str) -> None:
        """Read `target.numel()` values of dtype `stored` at `offset` into `target`."""
        flat = target.view(-1)
        with self._lock:
            if stored == target.dtype and target.device.type == "cpu" and stored != torch.bool:
                self._read_bytes(flat.view(torch.uint8), offset, key)
                return
            values = max(1, CHUNK_BYTES // stored.itemsize)
            for begin in range(0, flat.numel(), values):
                part = flat[begin : begin + values]
                stage = self._stage(part.numel() * stored.itemsize)
                self._read_bytes(stage, offset + begin * stored.itemsize, key)
                part.copy_(stage.ne(0) if stored == torch.bool else stage.view(stored))

    def _stage(self, size: int) -> Tensor:
        """The staging buffer, one for the life of the file: fresh ones for every tensor fragment the heap."""
        if self._staging is None or self._staging.numel() < size:
            self._staging = torch.empty(size, dtype=torch.uint8)
        return self._staging[:size]

    def _read_bytes(self, target: Tensor, offset: int, key: str) -> None:
        if target.numel() == 0:
            return
        view = target.numpy().data
        try:
            self._file.seek(offset)
            while view:
                count = self._file.readinto(view)
                if not count:
                    problem = f"it ended within tensor '{key}': did it change while in use?"
                    raise CheckpointError(f"{self.path}: {problem}")
                view = view[count:]
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path}: tensor '{key}' cannot be read: {error}.") from error


def open_file(path: Path) -> FileIO:
    """An unbuffered file. Raises CheckpointError for a path that is no regular file, or not readable."""
    try:
        if path.is_file():
            return FileIO(path, "rb")
        problem = "this is not a regular file" if path.exists() else "there is no such file"
        raise CheckpointError(f"{path}: {problem}; give the path of a weights file.")
    except OSError as error:  # also a name that is too long to be looked for
        raise CheckpointError(f"{path}: cannot be opened: {error.strerror}.") from error
