from __future__ import annotations

import time
from pathlib import Path

import huggingface_hub
import pytest

from velatura.errors import ModelError
from velatura.families.locate import locate, part_path
from velatura.interfaces import ModelFiles


def test_paths_start_at_the_base(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    assert locate("a.safetensors", tmp_path) == tmp_path / "a.safetensors"
    assert locate(str(tmp_path / "a.safetensors"), Path("elsewhere")) == tmp_path / "a.safetensors"


def test_pocket_models_and_unknown_ones(tmp_path: Path) -> None:
    assert (locate("pocket/flux", tmp_path) / "model_index.json").is_file()
    for wrong in ("pocket/fluxx", "pocket/../flux", "pocket/"):
        with pytest.raises(ModelError, match="inside the package are: pocket/flux"):
            locate(wrong, tmp_path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file or folder: .*flux1.safetensors"):
        locate("models/x/flux1.safetensors", tmp_path)


def test_a_hub_id_offline_fails_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"neither a path .* offline mode is on \(HF_HUB_OFFLINE\)"):
        locate("velatura-tests/there-is-no-such-model", tmp_path)
    assert time.monotonic() - began < 10  # the hub's client would retry for 23 s


def test_only_what_a_part_needs_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def snapshot_download(repo: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        assert "*.fp16.*" in ignore_patterns
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    (tmp_path / "vae").mkdir()
    files = ModelFiles(model="someone/model", base=tmp_path)
    assert part_path(files, None, "vae", "autoencoder") == tmp_path / "vae"
    assert part_path(files, "someone/other", "vae", "autoencoder") == tmp_path / "vae"
    assert asked == [["vae/*", "*.json"]] * 2
    # a repository of the part alone has its files at the top
    assert part_path(files, "someone/unet", "unet", "denoiser") == tmp_path
    assert "*.safetensors" in asked[-1]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("a\0b", "NUL"),
        ("~there-is-no-such-user/x", "there is no user there-is-no-such-user"),
        ("x" * 300, "a path of 300 characters"),
        ("a/" * 2000, "a path of 4,000 characters"),
        ("pocket/" + "x" * 300, "a path of 307 characters"),
        ("\ud800", "no Unicode text"),
    ],
)
def test_what_can_be_no_path(tmp_path: Path, source: str, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        locate(source, tmp_path)


@pytest.mark.parametrize("source", ["../x", "C:\\x", "/x/y/z", "..\\x", "//host/x", "./a/b"])
def test_paths_are_no_hub_ids(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(ModelError, match="no such file or folder"):
        locate(source, tmp_path)
