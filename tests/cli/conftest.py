"""Running the command inside the test, and a recipe to run it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from velatura.cli.app import main


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def velatura(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs `velatura` with the words given."""

    def run(*words: str | Path) -> Ended:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return Ended(code=code, out=said.out, err=said.err)

    return run


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\n[model]\nmodel = "pocket/flux"\n[[data]]\nfolder = "photos"\n[adapter]\n')
    return path
