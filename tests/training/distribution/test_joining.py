"""Which GPU a process takes, on machines as they are told."""

from __future__ import annotations

import pytest
import torch

from velatura.errors import RecipeError
from velatura.training.distribution import joining
from velatura.training.distribution.joining import device_for
from velatura.training.distribution.launch import Launch


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Two GPUs; those that were made torch's current one."""
    taken: list[torch.device] = []
    monkeypatch.setattr(joining, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    return taken


@pytest.mark.parametrize(("name", "made_current"), [("cuda:1", ["cuda:1"]), ("cuda", []), ("cpu", [])])
def test_a_gpu_that_is_named_becomes_the_current_one(
    name: str, made_current: list[str], current: list[torch.device]
) -> None:
    assert device_for(Launch(), name) == torch.device(name)
    assert current == [torch.device(name) for name in made_current]


def test_each_of_several_processes_takes_its_own(current: list[torch.device]) -> None:
    launch = Launch(rank=3, size=4, local_rank=1, local_size=2)
    assert device_for(launch, "cuda") == torch.device("cuda:1")
    assert current == [torch.device("cuda:1")]
    assert device_for(launch, "cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "of_this_machine", "said"),
    [
        ("cuda:0", 2, "cannot share one device"),
        ("mps", 2, "cannot share one device"),
        ("cuda", 3, "2 usable"),
    ],
)
def test_what_processes_cannot_share_is_refused(
    name: str, of_this_machine: int, said: str, current: list[torch.device]
) -> None:
    launch = Launch(rank=0, size=of_this_machine, local_rank=0, local_size=of_this_machine)
    with pytest.raises(RecipeError, match=said):
        device_for(launch, name)
    assert not current
