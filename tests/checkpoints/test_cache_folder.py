from __future__ import annotations

from pathlib import Path

import pytest

from velatura.checkpoints.cache_folder import default_cache_folder


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELATURA_CACHE", "/somewhere/else")
    assert default_cache_folder() == Path("/somewhere/else")
    monkeypatch.delenv("VELATURA_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_folder() == Path("/xdg/velatura")
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert default_cache_folder() == Path("/local/velatura")
