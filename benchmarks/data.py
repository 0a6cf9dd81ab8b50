"""Starting on a large folder of JPEGs with captions, and feeding a fast device from the cache.

    python benchmarks/data.py [--count 100000] [--folder FOLDER] [--json FILE]

Writes `count` JPEGs of 512 x 512 pixels with captions (30 to 100 KB, no two with the same bytes; about 6 GB for
100,000), reads them once into the page cache, and measures in a fresh process each: from the recipe to the dataset with
a cold scan (header, end marker, hash), with a warm one, with one of 100 new files; and the loader on cached latents.
`--folder` keeps the files for the next time.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import arguments
import numpy as np
import psutil
from PIL import Image

DIFFERENT = 200  # pictures; files differ by a comment as well
ITEMS = 2000  # of the loader's cache: 512 MB of latents
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a fresh process took, without its imports."""

    name: str
    items: int
    wall: float  # seconds
    cpu: float  # seconds, of all threads
    memory: float  # MiB, the process's peak resident set, imports included
    imports: float  # MiB of these

    @property
    def row(self) -> str:
        """A line of the table."""
        each = 1e6 * self.cpu / max(self.items, 1)
        rate = self.items / self.wall
        return (
            f"{self.name:28} {self.items:8,} {self.wall:9.2f} {self.cpu:9.2f} {each:10.0f} {rate:10,.0f} "
            f"{self.memory:8.0f} {self.imports:8.0f}"
        )


def jpegs() -> list[bytes]:
    """Pictures with large and small features, of the sizes that photos of this many pixels have."""
    made = []
    for seed in range(DIFFERENT):
        draw = np.random.default_rng(seed)
        coarse = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        fine = draw.normal(0, 4 + seed % 12, (512, 512, 3))
        smooth = np.asarray(Image.fromarray(coarse).resize((512, 512), Image.Resampling.BICUBIC))
        buffer = io.BytesIO()
        picture = Image.fromarray(np.clip(smooth + fine, 0, 255).astype(np.uint8))
        picture.save(buffer, "JPEG", quality=80)
        made.append(buffer.getvalue())
    return made


def write_files(folder: Path, numbers: range) -> None:
    """JPEGs with captions; those that are there already stay."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = jpegs()
    for number in numbers:
        path = folder / f"{number:06d}.jpg"
        if path.exists():
            continue
        comment = f"picture {number}".encode()
        data = pictures[number % DIFFERENT]
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        path.write_bytes(data[:2] + segment + data[2:])
        path.with_suffix(".txt").write_text(f"a picture, number {number}, of nothing in particular")


RECIPE = """
name = "benchmark"
model = {{ model = "pocket/flux" }}
data = [{{ folder = {folder}, resolution = 512 }}]
adapter = {{ kind = "lora" }}
training = {{ steps = 100, batch_size = 4 }}
memory = {{ cache_folder = {memory} }}
"""


def prepare(folder: Path, memory: Path) -> int:
    """From the recipe's text to the dataset, as a training starts: scan, split, buckets, plan; number of entries."""
    from velatura.events import Events
    from velatura.recipe.toml import parse_recipe
    from velatura.training.dataset import prepare_dataset

    text = RECIPE.format(folder=json.dumps(str(folder.absolute())), memory=json.dumps(str(memory.absolute())))
    return len(prepare_dataset(parse_recipe(text), Path(), 16, Events()).entries)


def load(folder: Path, memory_limit: int) -> int:
    """Take 8 items a step from a cache of 512 x 512 latents; number of items."""
    import torch
    from step_shape import info

    from velatura.data.batching.order import BatchPlan
    from velatura.data.batching.plan import Entry
    from velatura.data.caches.cache import CachedLatents
    from velatura.data.caches.shard_writer import ShardWriter
    from velatura.data.items import Item
    from velatura.data.loader import Loader
    from velatura.data.places import FilePlace
    from velatura.data.text.captions import Caption
    from velatura.data.views import views_of
    from velatura.events import Events
    from velatura.interfaces import Posterior

    about = replace(info(), fingerprints={"autoencoder": "a"})
    entries = [
        Entry(
            item=Item(
                name=f"{i}.png", place=FilePlace(f"{i}.png"), caption=Caption(text="x"), width=512, height=512,
                content=f"{i:032x}", source=0,
            ),
            bucket=(512, 512),
        )
        for i in range(ITEMS)
    ]  # fmt: skip
    cache = CachedLatents(folder, about, Events(), computed=torch.float32, memory_limit=memory_limit)
    missing = cache.missing(views_of(entries))
    if missing:  # the first process fills it
        with ShardWriter(cache.store) as writer:
            for view in missing:
                cache.put(writer, view, Posterior(mean=torch.randn(16, 64, 64)))
        return 0
    taken = 0
    with Loader(BatchPlan(entries, batch_size=8), latents=cache) as loader:
        begun = time.perf_counter()
        for step in range(3 * ITEMS // 8):
            (batch,) = loader.batches(step)
            taken += len(batch.names)
        global _seconds
        _seconds = time.perf_counter() - begun
    return taken


_seconds: float | None = None  # of the part that counts, where that is not the whole


def measure(name: str, work: Callable[..., int], *arguments: object) -> Measured:
    """Run `work` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (name, work, arguments))


def _measure(name: str, work: Callable[..., int], arguments: tuple[object, ...]) -> Measured:
    import velatura.training.dataset  # noqa: F401  what a training imports is no part of the scan

    imports = psutil.Process().memory_info().rss / MIB
    wall, cpu = time.perf_counter(), time.process_time()
    items = work(*arguments)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Measured(
        name=name, items=items, wall=_seconds or wall, cpu=cpu, memory=_peak() / MIB, imports=imports
    )


def _peak() -> int:
    """Bytes that the process held at most; where the system does not say, what it holds now."""
    try:
        import resource
        import sys
    except ImportError:
        return int(psutil.Process().memory_info().rss)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure and print."""
    parser = arguments.parser(__doc__)
    parser.add_argument("--count", type=arguments.count, default=100_000)
    parser.add_argument("--folder", type=arguments.new_folder, help="keep the files here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        files = (options.folder or Path(name)) / f"{options.count} files"
        cache = Path(name) / "cache"
        write_files(files, range(options.count))
        for path in files.iterdir():
            path.read_bytes()  # into the page cache
        time.sleep(2.5)  # files that changed just now are not remembered
        results = [measure("cold scan", prepare, files, cache), measure("warm start", prepare, files, cache)]
        added = [files / f"{number:06d}" for number in range(options.count, options.count + 100)]
        write_files(files, range(options.count, options.count + 100))
        time.sleep(2.5)
        results.append(measure("warm start, 100 new files", prepare, files, cache))
        for path in added:
            path.with_suffix(".jpg").unlink()
            path.with_suffix(".txt").unlink()
        measure("fill", load, cache, 0)
        results.append(measure("loader, latents in memory", load, cache, 2**31))
        results.append(measure("loader, latents on disk", load, cache, 0))
    print(
        f"{'':28} {'items':>8} {'wall s':>9} {'CPU s':>9} {'CPU us/it':>10} {'items/s':>10} {'MiB':>8} {'imports':>8}"
    )
    for result in results:
        print(result.row)
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2))


if __name__ == "__main__":
    main()
