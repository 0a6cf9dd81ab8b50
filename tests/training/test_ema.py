from __future__ import annotations

import pytest
import torch
from torch import nn

from velatura.training.ema import Ema
from velatura.training.trainables import Trainables


@pytest.fixture
def trainables() -> Trainables:
    parameters = {"x": nn.Parameter(torch.tensor([1.0, -4.0]))}
    return Trainables(parameters=parameters, adapter=None, parts=("denoiser",), report="")


def move(trainables: Trainables, *values: float) -> None:
    trainables.set_values({"x": torch.tensor(values)})


def test_the_formula_with_its_ramp(trainables: Trainables) -> None:
    """decay = min(0.3, (1 + step) / (10 + step)): 2/11, 3/12, then 0.3."""
    ema = Ema(trainables, 0.3)
    expected = 1.0
    for step, (value, decay) in enumerate([(3.0, 2 / 11), (-2.0, 3 / 12), (5.0, 0.3), (1.0, 0.3)], start=1):
        move(trainables, value, 0.0)
        ema.update(step)
        expected = decay * expected + (1 - decay) * value
        assert ema.average["x"][0].item() == pytest.approx(expected, rel=1e-6)


def test_the_average_is_apart_from_the_values(trainables: Trainables) -> None:
    ema = Ema(trainables, 0.9)
    move(trainables, 7.0, 7.0)
    assert ema.average["x"].tolist() == [1.0, -4.0]


def test_in_place_shows_the_average_and_gives_the_values_back(trainables: Trainables) -> None:
    ema = Ema(trainables, 0.9)
    move(trainables, 0.1, 0.2)
    ema.update(1)
    own = trainables.values()["x"].clone()
    with ema.in_place():
        assert torch.equal(trainables.values()["x"], ema.average["x"])
        assert not torch.equal(trainables.values()["x"], own)
    assert torch.equal(trainables.values()["x"], own)
    with pytest.raises(ZeroDivisionError), ema.in_place():
        raise ZeroDivisionError
    assert torch.equal(trainables.values()["x"], own)


def test_load(trainables: Trainables) -> None:
    ema = Ema(trainables, 0.9)
    saved = {"x": torch.tensor([9.0, 8.0])}
    ema.load(saved)
    assert ema.average["x"].tolist() == [9.0, 8.0]
    assert ema.average["x"] is not saved["x"]
