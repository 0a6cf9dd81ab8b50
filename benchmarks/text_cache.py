"""How fast cached text embeddings are loaded, against what the disk gives.

    python benchmarks/text_cache.py [--items 256] [--rounds 8] [--folder FOLDER] [--json FILE]

Writes embeddings of the size that T5 gives for FLUX (512 tokens of 4096 values in bf16: 4 MiB an item) into a cache.
Reads them cold, in turns: its files from end to end, and the loader in the order of training, which checks each item's
checksum and makes a batch of it. A shared disk changes its speed from second to second, so an epoch of the loader is
compared with the disk just before and just after it; the median over the rounds counts. `--folder` chooses the disk;
the files are removed.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import arguments
import torch
from step_shape import info

from velatura.data.batching.order import BatchPlan
from velatura.data.batching.plan import Entry
from velatura.data.caches.cache import CachedText
from velatura.data.caches.shard_writer import ShardWriter
from velatura.data.items import Item
from velatura.data.loader import Loader
from velatura.data.places import FilePlace
from velatura.data.text.captions import Caption
from velatura.data.views import View
from velatura.events import Events
from velatura.interfaces import Conditioning, Posterior

TOKENS, WIDTH = 512, 4096
BATCHES = (1, 4)
MIB = 2**20


@dataclass
class Measured:
    """What the rounds gave: MiB/s, milliseconds of CPU an item, and the share of what the disk gave meanwhile."""

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        share = f"{statistics.median(self.shares):6.0%} of the disk" if self.shares else ""
        rate, cpu = statistics.median(self.rates), statistics.median(self.cpu)
        return f"{rate:8,.0f} MiB/s {cpu:6.1f} ms of CPU an item {share}"


class Nothing:
    """Latents that cost nothing."""

    def empty(self, views: Sequence[View]) -> Posterior:
        """One value each."""
        return Posterior(mean=torch.zeros(len(views), 1, 1, 1))

    def read_into(self, room: Posterior, position: int, view: View) -> None:
        """It is there."""


def filled(folder: Path, texts: list[str]) -> CachedText:
    """A cache of these texts that keeps nothing in memory."""
    about = replace(info(), fingerprints={"text_encoders": "t"})
    cache = CachedText(folder, about, Events(), computed=torch.bfloat16, memory_limit=0)
    with ShardWriter(cache.store) as writer:
        for text in texts:
            embedding = torch.randn(1, TOKENS, WIDTH).to(torch.bfloat16)
            cache.put(writer, text, Conditioning(tensors={"text": embedding}))
    return cache


def drop(files: list[Path]) -> bool:
    """Take files out of the page cache; False where the system cannot be asked to."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def read(files: list[Path]) -> tuple[float, float]:
    """Seconds, of the clock and of the processor, to read files from end to end."""
    buffer = bytearray(8 * MIB)
    begun, cpu = time.perf_counter(), time.process_time()
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - begun, time.process_time() - cpu


def load(cache: CachedText, texts: list[str], batch_size: int) -> tuple[float, float]:
    """Seconds, of the clock and of all processors, for an epoch of the loader."""
    entries = [
        Entry(
            item=Item(
                name=f"{i}.png", place=FilePlace(f"{i}.png"), caption=Caption(text=text), width=512, height=512,
                content=f"{i:032x}", source=0,
            ),
            bucket=(512, 512),
        )
        for i, text in enumerate(texts)
    ]  # fmt: skip
    plan = BatchPlan(entries, batch_size=batch_size)
    with Loader(plan, latents=Nothing(), text=cache) as loader:
        begun, cpu = time.perf_counter(), time.process_time()
        for step in range(plan.batches_per_epoch):
            loader.batches(step)
        return time.perf_counter() - begun, time.process_time() - cpu


def main() -> None:
    """Measure and print."""
    parser = arguments.parser(__doc__)
    parser.add_argument("--items", type=arguments.count, default=256)
    parser.add_argument("--rounds", type=arguments.count, default=8)
    parser.add_argument("--folder", type=arguments.folder)
    options = parser.parse_args()
    texts = [f"caption {number}" for number in range(options.items)]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        cache = filled(Path(name), texts)
        files = sorted(cache.store.folder.glob("*.safetensors"))
        mib = sum(path.stat().st_size for path in files) / MIB
        measured, disk, cold = {size: Measured() for size in BATCHES}, Measured(), True

        def timed(kind: Measured, what: Callable[[], tuple[float, float]]) -> float:
            nonlocal cold
            cold = drop(files) and cold
            wall, cpu = what()
            kind.rates.append(mib / wall)
            kind.cpu.append(1000 * cpu / options.items)
            return mib / wall

        for _ in range(options.rounds):
            before = timed(disk, lambda: read(files))
            for batch_size, kind in measured.items():
                rate = timed(kind, lambda size=batch_size: load(cache, texts, size))
                after = timed(disk, lambda: read(files))
                kind.shares.append(2 * rate / (before + after))
                before = after
    print(f"{mib:,.0f} MiB, {'cold' if cold else 'from the page cache, which cannot be emptied here'}")
    print(f"the files, end to end     {disk}")
    for batch_size, kind in measured.items():
        print(f"the loader, batches of {batch_size}  {kind}")
    if options.json:
        rows = {str(size): asdict(kind) for size, kind in measured.items()}
        options.json.write_text(json.dumps({"MiB": mib, "cold": cold, "disk": asdict(disk)} | rows, indent=2))


if __name__ == "__main__":
    main()
