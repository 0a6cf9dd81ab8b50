"""What is advised where memory runs out: only what the run may do, and what needs less than it does."""

from __future__ import annotations

import pytest

from velatura.recipe.toml import parse_recipe
from velatura.training.health.memory_account import remedies

TEXT = 'name = "x"\n[model]\nmodel = "pocket/flux"\n[[data]]\nfolder = "x"\n'
LORA, FULL = "[adapter]\n", "[full]\n"


def advised(section: str, *sets: str, items: int = 8, sharded: bool = False) -> str:
    return "; ".join(remedies(parse_recipe(TEXT + section, sets=sets), items, sharded=sharded))


def test_batches_are_to_be_split_further_than_they_are() -> None:
    assert "memory.micro_batch = 4," in advised(LORA)
    assert "memory.micro_batch = 2," in advised(LORA, "memory.micro_batch=3")
    assert "micro_batch" not in advised(LORA, "memory.micro_batch=1")
    assert "micro_batch" not in advised(LORA, items=1)


@pytest.mark.parametrize(
    ("sets", "sharded"), [(("optimizer.fused_backward=true", "optimizer.clip=0"), False), ((), True)]
)
def test_what_is_refused_is_not_advised(sets: tuple[str, ...], sharded: bool) -> None:
    told = advised(FULL, *sets, sharded=sharded)
    assert "micro_batch" not in told
    assert "retry_on_oom" not in told
    assert "a smaller training.batch_size" in told
    assert ("with accumulate" in told) == sharded


def test_gradients_of_several_passes_cannot_be_used_at_once() -> None:
    assert "fused_backward" in advised(FULL)
    for one in ("memory.micro_batch=1", "training.accumulate=2"):
        assert "fused_backward" not in advised(FULL, one)


def test_previews_that_bring_weights_may_bring_fewer() -> None:
    assert "previews.streamed" in advised(LORA, "memory.streamed=0.5", "previews.streamed=0.1")
    assert "previews.streamed" not in advised(LORA, "memory.streamed=0.5", "previews.streamed=0.5")
