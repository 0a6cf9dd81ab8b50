"""Shapes of models that are there, and of those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from velatura.errors import ModelError
from velatura.families.flux import FluxFamily
from velatura.families.outline import outline, sketched
from velatura.families.sd1 import Sd1Family
from velatura.interfaces import PARTS, ModelFiles


def count(family: FluxFamily | Sd1Family, files: ModelFiles) -> int:
    (module,) = sketched(family, outline(family, files), "denoiser")
    return sum(parameter.numel() for parameter in module.parameters())


def test_published_shapes_stand_in_for_files(tmp_path: Path) -> None:
    files = ModelFiles(model="black-forest-labs/FLUX.1-dev", base=tmp_path)
    found = outline(FluxFamily(), files)
    assert found.assumed == PARTS
    assert (found.info.variant, found.info.guided, found.info.size_step) == ("dev", True, 16)
    assert count(FluxFamily(), files) == 11_901_408_320
    assert count(Sd1Family(), ModelFiles(denoiser="v1-5.safetensors", base=tmp_path)) == 859_520_964


def test_schnell_is_told_by_its_name(tmp_path: Path) -> None:
    found = outline(FluxFamily(), ModelFiles(denoiser="models/flux1-schnell.safetensors", base=tmp_path))
    assert (found.info.variant, found.info.guided) == ("schnell", False)


def test_files_that_are_there_are_read(flux_folder: Path) -> None:
    family, files = FluxFamily(), ModelFiles(model=str(flux_folder))
    found = outline(family, files)
    assert found.assumed == ()
    assert found.info.variant == family.inspect(files).variant
    assert count(family, files) == family.weight_counts(files)["denoiser"]


def test_parts_may_be_there_one_by_one(flux_singles: Path, tmp_path: Path) -> None:
    """A tiny denoiser with the published encoders: they do not fit, and that is said."""
    denoiser = next(path for path in flux_singles.iterdir() if "flux" in path.name or "dit" in path.name)
    with pytest.raises(ModelError, match="belong to different models"):
        outline(FluxFamily(), ModelFiles(denoiser=str(denoiser), autoencoder="ae.sft", base=tmp_path))
