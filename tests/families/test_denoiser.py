"""A denoiser in 8 bits: its blocks and nothing else, small before the device sees it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from velatura.errors import RecipeError
from velatura.events import Event, Events, Notice
from velatura.families.denoiser import load_denoiser
from velatura.families.flux import FluxFamily
from velatura.interfaces import ModelFiles
from velatura.placement.precision.quantised import LINEARS, Weights


@pytest.mark.parametrize("weights", get_args(Weights)[1:])
def test_the_blocks_are_in_8_bits_and_the_rest_is_not(flux_folder: Path, weights: Weights) -> None:
    family = FluxFamily()
    seen: list[Event] = []
    denoiser = load_denoiser(
        family,
        ModelFiles(model=str(flux_folder)),
        Events(seen.append),
        weights=weights,
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
    )
    in_blocks = [layer for block in family.blocks(denoiser) for layer in block.modules()]
    small = [layer for layer in denoiser.modules() if isinstance(layer, LINEARS[weights])]
    assert small == [layer for layer in in_blocks if isinstance(layer, LINEARS[weights])]
    assert not [layer for layer in in_blocks if type(layer) is nn.Linear]
    assert seen == [Notice(message=f"{len(small)} linear layers are held in {weights}")]
    assert {parameter.dtype for parameter in denoiser.parameters()} == {torch.bfloat16}


def test_a_device_without_such_numbers_is_refused(flux_folder: Path) -> None:
    with pytest.raises(RecipeError, match="fp8 cannot be held on mps"):
        load_denoiser(
            FluxFamily(),
            ModelFiles(model=str(flux_folder)),
            Events(),
            weights="fp8",
            device=torch.device("mps"),
            dtype=None,
        )
