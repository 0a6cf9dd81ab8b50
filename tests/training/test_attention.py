"""The attention that a run asks for: what is used is part of what the run is."""

from __future__ import annotations

from typing import Any

import pytest

from velatura.errors import RecipeError
from velatura.events import Notice
from velatura.families import attending
from velatura.placement.attention import Attention

from .conftest import Train, equal


def warnings(log: Any) -> list[str]:
    return [notice.message for notice in log.of(Notice) if notice.level == "warning"]


def test_what_cannot_be_had_falls_back_and_says_so_once(run: Train) -> None:
    plain = run(into="plain", training={"steps": 2})
    asked = run(into="asked", training={"steps": 2, "attention": "flash"})
    assert equal(asked.state(), plain.state())
    assert [line[:37] for line in warnings(asked.log) if "attention" in line] == [
        'attention "flash" cannot be had: it i'
    ]


def test_one_image_at_a_time_learns_the_same(run: Train) -> None:
    training = {"steps": 2, "batch_size": 2}
    together = run(into="together", training=training)
    split = run(into="split", training=training, memory={"split_attention": True})
    assert split.losses == pytest.approx(together.losses, rel=1e-5)


def test_a_run_goes_on_where_another_attention_is_to_be_had_only_if_the_user_insists(
    run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"steps": 4, "attention": "flash"}
    with monkeypatch.context() as elsewhere:  # a machine that has it; what it computes is SDPA's here
        elsewhere.setattr(attending, "why_not", lambda name, **given: None)
        elsewhere.setattr(Attention, "__call__", lambda self, *given: _sdpa(*given))
        run(into="a", training=training, stop_after=2)
    with pytest.raises(RecipeError, match=r'training\.attention was "flash", is "sdpa"'):
        run(into="a", training=training, resume=True)


def _sdpa(*given: Any) -> Any:
    from velatura.placement.attention import _attend

    return _attend("sdpa", *given)
