"""Puts trained pocket weights into the package: the last thing that examples/pocket does.

    python examples/pocket/ship.py runs/pocket-autoencoder/model-003000-ema runs/pocket-flux-3/model-002250-ema

Refuses files over 15 MiB and a model over 24 MB in all: the package must stay small.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "velatura" / "pocket" / "models" / "flux"
MOST_PER_FILE = 15 * 2**20
MOST_IN_ALL = 24_000_000


def ship(autoencoder: Path, flux: Path) -> None:
    """Copy the parts, then check sizes."""
    parts = {"vae": autoencoder, "transformer": flux, "text_encoder": flux, "text_encoder_2": flux}
    for name, source in parts.items():
        shutil.rmtree(PACKAGE / name, ignore_errors=True)
        shutil.copytree(source / name, PACKAGE / name)
    sizes = {path: path.stat().st_size for path in PACKAGE.rglob("*.safetensors")}
    for path, size in sizes.items():
        sys.stdout.write(f"{size / 1e6:6.2f} MB  {path.relative_to(PACKAGE)}\n")
    if max(sizes.values()) > MOST_PER_FILE or sum(sizes.values()) > MOST_IN_ALL:
        raise SystemExit("too large for the package")


if __name__ == "__main__":
    ship(Path(sys.argv[1]), Path(sys.argv[2]))
