"""Images a second from files to cached latents: ours beside sd-scripts' own code, same photos, interleaved.

    python benchmarks/cache.py [--peers DIR] [--photos 1536x1024 4000x3000] [--sizes 512 1024] [--autoencoder none|tiny]
        [--count 48] [--batch 1 4] [--threads 2] [--rounds 5] [--json FILE]

A round reads JPEGs, decodes, scales and cuts them for their bucket, encodes them in batches and writes the latents to
the disk. With `none` the encoder costs nothing, as one that runs on a GPU meanwhile: the loader's path alone. `tiny` is
an AutoencoderKL of a few channels, on the CPU. Ours scales with Lanczos, its default; sd-scripts with OpenCV's area
filter, its own, and as with --highvram. `--peers`: a folder with a clone of sd-scripts, which needs cv2, imagesize,
toml, voluptuous and einops; without it ours alone is timed. "of ours": its images a second by ours, the median over
rounds.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import arguments
import torch
from cache_case import ENCODERS, Case, photos
from cache_peer import NEEDED, sd_scripts
from contest import Contestants, Result, Step, ratio, run
from step_shape import info
from torch import Tensor

OURS, THEIRS = "velatura", "sd-scripts"


def ours(case: Case) -> Step:
    """What `velatura cache build` does to images that a scan has found."""
    from velatura.data.batching.plan import Entry
    from velatura.data.caches.cache import CachedLatents
    from velatura.data.caches.fill import fill_latents
    from velatura.data.items import Item
    from velatura.data.places import FilePlace
    from velatura.data.scanning.probe import content_hash
    from velatura.data.text.captions import Caption
    from velatura.events import Events
    from velatura.families.flux import FluxFamily
    from velatura.interfaces import Parts

    class Family(FluxFamily):
        """FLUX's, with the encoder of the case."""

        def encode_image(self, parts: Parts, images: Tensor) -> Tensor:
            """Latents of images."""
            assert parts.autoencoder is not None
            found: Tensor = parts.autoencoder.latents(images)
            return found

    entries = [
        Entry(
            item=Item(
                name=path.name, place=FilePlace(str(path)), caption=Caption(text=""), width=case.photo[0],
                height=case.photo[1], content=content_hash(path.read_bytes()), source=0,
            ),
            bucket=case.bucket,
        )
        for path in case.files
    ]  # fmt: skip
    about = replace(info(), fingerprints={"autoencoder": case.autoencoder})
    parts = Parts(info=about, autoencoder=ENCODERS[case.autoencoder]())
    family, target = Family(), case.folder / "ours"

    def step() -> None:
        shutil.rmtree(target, ignore_errors=True)
        cache = CachedLatents(target, about, Events(), computed=torch.float32)
        fill_latents(entries, family, parts, cache, Events(), batch_size=case.batch)

    return step


def contest(case: Case, peers: Path | None, *, rounds: int, threads: int) -> dict[str, Result]:
    """Both on one case; seconds are of all photos."""
    contestants: Contestants = {OURS: (ours, (case,))}
    if peers is not None:
        contestants[THEIRS] = (sd_scripts, (case, peers))
    return run(contestants, rounds=rounds, threads=threads, warm=1)


def main() -> None:
    """Run a contest for each case and print a table."""
    parser = arguments.parser(__doc__)
    parser.add_argument("--peers", type=arguments.folder)
    parser.add_argument("--photos", type=arguments.size, nargs="+", default=[(1536, 1024), (4000, 3000)])
    parser.add_argument("--sizes", type=arguments.at_least(64), nargs="+", default=[512, 1024])
    parser.add_argument("--autoencoder", default="none", choices=list(ENCODERS))
    parser.add_argument("--batch", type=arguments.count, nargs="+", default=[1, 4])
    parser.add_argument("--count", type=arguments.count, default=48)
    parser.add_argument("--threads", type=arguments.count, default=2)
    parser.add_argument("--rounds", type=arguments.count, default=5)
    options = parser.parse_args()
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if options.peers and missing:
        parser.error(f"--peers: sd-scripts imports {', '.join(missing)}, which is not installed")
    print(f"{'photos':12}{'size':>6}{'batch':>7}  {'':12}{'images/s':>9}{'of ours':>9}{'peak GiB':>10}")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for photo, size, batch in product(options.photos, options.sizes, options.batch):
            shown = f"{photo[0]}x{photo[1]}"
            folder = Path(name) / shown
            if not folder.exists():
                photos(folder, photo, options.count)
            case = Case(folder=folder, photo=photo, size=size, autoencoder=options.autoencoder, batch=batch)
            results = contest(case, options.peers, rounds=options.rounds, threads=options.threads)
            for who, result in results.items():
                rate, share = options.count / result.median, 1 / ratio(result, results[OURS])
                line = f"{shown:12}{size:6}{batch:7}  {who:12}{rate:9.1f}{share:9.2f}{result.peak:10.2f}"
                print(line, flush=True)
                rows.append({"photo": shown, "size": size, "batch": batch, "who": who, **asdict(result)})
    if options.json:
        options.json.write_text(json.dumps({"autoencoder": options.autoencoder, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
