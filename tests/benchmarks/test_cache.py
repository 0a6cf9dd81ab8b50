"""The contestant of benchmarks/cache.py caches every photo, in the bucket of the case."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from safetensors.torch import load_file


@pytest.mark.parametrize("autoencoder", ["none", "tiny"])
def test_every_photo_is_cached(tmp_path: Path, autoencoder: str) -> None:
    cache, shape = import_module("cache"), import_module("cache_case")
    shape.photos(tmp_path / "photos", (300, 200), 3)
    case = shape.Case(
        folder=tmp_path / "photos", photo=(300, 200), size=128, autoencoder=autoencoder, batch=2
    )
    assert case.bucket == (128, 128)
    cache.ours(case)()
    (shard,) = case.folder.glob("ours/**/*.safetensors")
    latents = load_file(shard)["0/latents"]
    assert latents.shape == (3, 16, 16, 16)
    assert latents.unique(dim=0).shape == latents.shape
