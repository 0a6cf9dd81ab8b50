"""For all tests: no network, one thread per worker, caches of their own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("velatura", deadline=None)  # machines are shared: time says nothing about right
settings.load_profile("velatura")
os.environ["HF_HUB_OFFLINE"] = "1"  # else each miss costs 23 s of retries
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# what one test compiled serves the others, also those in processes of their own: a minute each
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / "velatura-tests-compiled"))
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; this must be set before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cached latents and embeddings of a test stay with the test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("VELATURA_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random FLUX; see `tiny.py`."""
    from .tiny import write_flux  # torch and diffusers: only for tests that need them

    return write_flux(tmp_path_factory.mktemp("tiny") / "flux")
