"""The order of training: complete, of one bucket at a time, and a pure function of the step."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from velatura.data.captions import Caption
from velatura.data.items import Item
from velatura.data.order import BatchPlan, OrderedPlan
from velatura.data.places import FilePlace
from velatura.data.plan import Entry


def entries(*counts: int) -> list[Entry]:
    """`counts[i]` entries in bucket i."""
    made = []
    for i, count in enumerate(counts):
        for j in range(count):
            item = Item(
                name=f"{i}-{j}",
                place=FilePlace(""),
                caption=Caption(),
                width=1,
                height=1,
                content=f"{i}-{j}",
                source=0,
            )
            made.append(Entry(item=item, bucket=(64 + i, 64)))
    return made


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_every_epoch_has_every_entry_once(counts: list[int], size: int, accumulate: int, epoch: int) -> None:
    plan = BatchPlan(entries(*counts), batch_size=size, accumulate=accumulate, seed=7)
    per_epoch = plan.batches_per_epoch
    assert per_epoch == sum(-(-count // size) for count in counts)
    first, last = epoch * per_epoch // accumulate, ((epoch + 1) * per_epoch - 1) // accumulate
    batches = [batch for step in range(first, last + 1) for batch in plan.micro_batches(step)]
    start = epoch * per_epoch - first * accumulate
    mine = batches[start : start + per_epoch]
    assert Counter(at.entry.item.name for batch in mine for at in batch) == Counter(
        e.item.name for e in plan.entries
    )
    for batch in batches:
        assert len({at.entry.bucket for at in batch}) == 1
        assert 1 <= len(batch) <= size


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 500), st.integers(1, 4))
def test_a_step_does_not_depend_on_what_was_asked_before(step: int, accumulate: int) -> None:
    def plan() -> BatchPlan:
        return BatchPlan(entries(5, 3, 4), batch_size=2, accumulate=accumulate, seed=3)

    walked = plan()
    for before in range(max(0, step - 10), step):
        walked.micro_batches(before)
    assert plan().micro_batches(step) == walked.micro_batches(step)


def test_slots_count_through_the_whole_step() -> None:
    plan = BatchPlan(entries(5, 2), batch_size=2, accumulate=3, seed=0)
    for step in range(20):
        slots = [at.slot for batch in plan.micro_batches(step) for at in batch]
        assert slots == list(range(len(slots)))


def test_epochs_and_seeds_differ() -> None:
    def names(seed: int, epoch: int) -> list[str]:
        plan = BatchPlan(entries(50), batch_size=5, seed=seed)
        return [
            at.entry.item.name
            for step in range(epoch * 10, epoch * 10 + 10)
            for at in plan.micro_batches(step)[0]
        ]

    assert len({tuple(names(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_company_changes_between_epochs() -> None:
    plan = BatchPlan(entries(8), batch_size=2, seed=1)
    pairs = {frozenset(at.entry.item.name for at in plan.micro_batches(step)[0]) for step in range(40)}
    assert len(pairs) > 10  # of 28 possible; 4 if the same images always came together


def test_report() -> None:
    plan = BatchPlan(entries(5, 2) * 2, batch_size=4, accumulate=2, seed=0)
    report = plan.report()
    assert report.buckets == {(64, 64): 10, (65, 64): 4}
    assert set(report.uses.values()) == {2}
    assert (report.batches, report.small_batches, report.steps) == (4, 1, 2.0)
    assert [plan.epoch_of(step) for step in (0, 1, 2, 5)] == [0, 0, 1, 2]


def test_a_late_step_of_a_large_set_is_cheap() -> None:
    plan = BatchPlan(entries(20_000), batch_size=4, accumulate=2, seed=0)
    started = time.perf_counter()
    plan.micro_batches(100_000)
    assert (
        time.perf_counter() - started < 5.0
    )  # a hundredth of what walking there would take; 0.05 s as a rule


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="entries"):
        BatchPlan([], batch_size=1)
    with pytest.raises(ValueError, match="count from 0"):
        BatchPlan(entries(1), batch_size=1).micro_batches(-1)


def test_ordered_plan() -> None:
    plan = OrderedPlan(entries(3, 1), batch_size=2)
    assert plan.steps == 3
    seen = [at for step in range(3) for batch in plan.micro_batches(step) for at in batch]
    assert [at.entry.item.name for at in seen] == ["0-0", "0-1", "0-2", "1-0"]
    assert [at.slot for at in seen] == [0, 1, 2, 3]
