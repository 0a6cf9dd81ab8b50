"""A folder that may no longer be written to: the run ends with what to do, and goes on where it was saved."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from velatura.errors import StorageError

from .conftest import Train

SECTIONS: dict[str, Any] = {
    "training": {"steps": 4, "save_every": 2},
    "previews": {"every": 4, "steps": 1, "prompts": ["a"], "baseline": False},
}
FULL: dict[str, Any] = {"full": {"parts": ["denoiser"], "only": "proj_out.*"}}


@pytest.mark.parametrize(
    ("place", "sections", "kept"),
    [
        ("state/.000004", {}, "000002"),
        ("state/000004", {}, "000004"),  # what was shown is noted in the state
        ("adapters/.tiny-000004", {}, "000004"),
        ("model-000004", FULL, "000004"),
        ("previews/000004", {}, "000004"),
        ("previews/.index", {}, "000004"),
    ],
)
def test_every_writer_says_what_it_could_not_write_and_what_is_saved(
    run: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    sections: dict[str, Any],
    kept: str,
) -> None:
    refused = tmp_path / "runs" / "tiny" / place
    mkdir, opened = Path.mkdir, Path.open

    def refuse(path: Path, when: bool) -> None:
        inside = str(path).replace("/.model-", "/model-").startswith(str(refused))
        if when and inside:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def no_folder(path: Path, *arguments: Any, **options: Any) -> None:
        refuse(path, not path.exists())
        mkdir(path, *arguments, **options)

    def no_file(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        refuse(path, "r" not in mode)
        return opened(path, mode, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", no_folder)
        patch.setattr(Path, "open", no_file)
        with pytest.raises(StorageError) as caught:
            run(**SECTIONS, **sections)
    assert "Permission denied" in str(caught.value)
    assert str(caught.value).endswith(
        f"The last state saved is {tmp_path / 'runs' / 'tiny' / 'state' / kept}; once the disk takes what it refused, "
        "go on with --resume."
    )
    assert run(resume=True, **SECTIONS, **sections).outcome.exit_code == 0
