"""What launchers say in the environment."""

from __future__ import annotations

import pytest

from velatura.errors import RecipeError
from velatura.training.distribution.launch import Launch, launched, of_one_voice

BOTH = {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "node-0", "MASTER_PORT": "29500"}


def test_alone_where_nothing_is_said() -> None:
    assert launched({}) == Launch(rank=0, size=1, local_rank=0, local_size=1)
    assert launched({"RANK": "0", "LOCAL_RANK": "0"}).size == 1


def test_torchruns_words() -> None:
    found = launched({**BOTH, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"})
    assert found == Launch(rank=5, size=8, local_rank=1, local_size=4)
    assert not found.speaks


def test_without_local_ranks_all_are_on_one_machine() -> None:
    assert launched(BOTH) == Launch(rank=5, size=8, local_rank=5, local_size=8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is set and MASTER_ADDR, MASTER_PORT not"),
        ({**BOTH, "RANK": "8"}, "RANK = 8 of WORLD_SIZE = 8"),
        ({**BOTH, "RANK": "-1"}, "RANK = '-1' in the environment is no number"),
        ({**BOTH, "LOCAL_RANK": "4", "LOCAL_WORLD_SIZE": "4"}, "LOCAL_RANK = 4 of 4"),
    ],
)
def test_what_does_not_fit_together_is_refused(words: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        launched(words)


def test_what_all_would_say_alike_is_said_once() -> None:
    with pytest.raises(RecipeError), of_one_voice(Launch(size=2)):
        raise RecipeError("a mistake")
    with pytest.raises(SystemExit) as ended, of_one_voice(Launch(rank=1, size=2, local_rank=1, local_size=2)):
        raise RecipeError("a mistake")
    assert ended.value.code == 2
