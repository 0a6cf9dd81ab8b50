"""What encoding ahead takes by its plan, beside what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from velatura.families.locate import POCKET
from velatura.families.registry import family_for
from velatura.interfaces import Parts, Pieces, Prompt
from velatura.planning import encoding
from velatura.planning.devices import device_named
from velatura.planning.encoding import encode_images, encode_texts
from velatura.planning.measuring import grown
from velatura.planning.phases import Shape
from velatura.planning.workload import Workload, workload

from ..tiny import Log, recipe
from .conftest import sections

CPU = torch.device("cpu")


def work(base: Path, model: Path, **changes: Any) -> Workload:
    wanted = recipe(base, model, **sections(training={"precision": "fp32"}, **changes))
    return workload(wanted, base, device_named("cpu"), Log().events)


def loaded(of: Workload) -> Parts:
    family = family_for(of.setup.recipe.model)
    return family.load(of.setup.files, ("text_encoders", "autoencoder"), device=CPU, dtype=torch.float32)


def weights(*modules: Any) -> int:
    return sum(tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers()))


@pytest.fixture(params=["pocket", "sd1"])
def model(request: pytest.FixtureRequest) -> Path:
    return POCKET / "flux" if request.param == "pocket" else request.getfixturevalue("sd1")


@pytest.mark.parametrize("pieces", ["whole", "sliced"])
@pytest.mark.parametrize("cached", ["mean", "sample"])
def test_images(tmp_path: Path, model: Path, photos: Path, pieces: Pieces, cached: str) -> None:
    of = work(tmp_path, model, memory={"cached_latents": cached})
    parts, family = loaded(of), of.setup.family
    parts.pieces = pieces
    shape = Shape(width=256, height=192, count=3)
    run = family.encode_image if cached == "mean" else family.posterior
    with torch.no_grad():
        found = grown(lambda: run(parts, torch.zeros(3, 3, 192, 256))) + weights(parts.autoencoder)
    planned = encode_images(of.setup, of.found, device_named("cpu"), shape, pieces)
    assert planned.peak.total == pytest.approx(found, rel=0.05)


def test_captions(tmp_path: Path, model: Path, photos: Path) -> None:
    of = work(tmp_path, model)
    parts, family = loaded(of), of.setup.family
    with torch.no_grad():
        found = grown(lambda: family.encode(parts, [Prompt(text="a")] * 4))
    planned, _ = encode_texts(of.setup, of.found, device_named("cpu"), 4)
    assert planned.peak.total == pytest.approx(found + weights(*parts.text_encoders or ()), rel=0.05)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_of_images_that_are_encoded_one_by_one_one_is_followed(
    tmp_path: Path, model: Path, photos: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = recipe(tmp_path, model, **sections(training={"precision": precision}))
    of = workload(wanted, tmp_path, device_named("cpu"), Log().events)
    shape = Shape(width=256, height=192, count=4)

    def planned() -> tuple[int, float]:
        found = encode_images(of.setup, of.found, device_named("cpu"), shape, "sliced")
        return found.peak.total, found.work.flops

    one = planned()
    monkeypatch.setattr(encoding, "encodes_alone", lambda *given: False)
    assert one == planned()
