"""What a run trains, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from velatura.errors import CheckpointError, ModelError, RecipeError
from velatura.interfaces import Family, Parts
from velatura.training.trainables import Trainables, make_trainables

from ..tiny import load, recipe


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path) -> Any:
    def start(**sections: Any) -> tuple[Trainables, Family, Parts]:
        family, parts = load(tiny_model)
        return make_trainables(recipe(tmp_path, tiny_model, **sections), family, parts), family, parts

    return start


def test_only_the_adapter_has_gradients(make: Any) -> None:
    trainables, _, parts = make(adapter={"targets": ["mlp"], "alpha": 2.0})
    assert parts.denoiser is not None
    learning = {id(p) for p in parts.denoiser.parameters() if p.requires_grad}
    assert learning == {id(p) for p in trainables.parameters.values()}
    assert all(p.dtype == torch.float32 for p in trainables.parameters.values())
    assert trainables.adapter is not None
    assert {layer.scale for layer in trainables.adapter.layers.values()} == {0.5}


def test_alpha_is_the_rank_unless_it_is_said(make: Any) -> None:
    trainables, *_ = make(adapter={"rank": 8})
    assert {layer.scale for layer in trainables.adapter.layers.values()} == {1.0}


def test_whole_parts_by_name(make: Any) -> None:
    """Two text encoders are numbered; a tied table of embeddings appears once."""
    trainables, _, parts = make(full={"parts": ["text_encoders", "denoiser"]})
    roots = {name.split(".")[0] for name in trainables.parameters}
    assert roots == {"text_encoders[0]", "text_encoders[1]", "denoiser"}
    expected = sum(
        p.numel()
        for name in ("text_encoders", "denoiser")
        for m in parts.modules(name)
        for p in m.parameters()
    )
    assert trainables.count == expected
    assert trainables.report == f"{expected:,} weights of text_encoders, denoiser"
    assert not any(p.requires_grad for p in parts.autoencoder.parameters())
    assert not any(m.training for name in ("text_encoders", "denoiser") for m in parts.modules(name))


def test_patterns_choose_weights(make: Any) -> None:
    trainables, *_ = make(full={"parts": ["denoiser"], "only": "*.norm_q.weight"})
    assert len(trainables.parameters) == 3  # of one double and two single blocks
    with pytest.raises(RecipeError, match=r"full.only = 'nothing\*' matches no weight of denoiser"):
        make(full={"parts": ["denoiser"], "only": "nothing*"})


def test_parts_that_are_not_loaded(tmp_path: Path, tiny_model: Path) -> None:
    family, parts = load(tiny_model)
    parts.denoiser = None
    for sections in ({}, {"full": {"parts": ["denoiser"]}}):
        with pytest.raises(ModelError, match="not loaded|does not load"):
            make_trainables(recipe(tmp_path, tiny_model, **sections), family, parts)


def test_values_of_another_run_are_refused(make: Any) -> None:
    trainables, *_ = make(adapter={"targets": ["mlp"]})
    other, *_ = make(adapter={"targets": ["attention"]})
    with pytest.raises(CheckpointError, match="names differ"):
        trainables.set_values(other.values())
    wide, *_ = make(adapter={"targets": ["mlp"], "rank": 8})
    with pytest.raises(CheckpointError, match=r"is \[4, 32\] here and \[8, 32\] in the saved values"):
        trainables.set_values(wide.values())
