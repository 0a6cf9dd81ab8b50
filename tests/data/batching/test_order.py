"""The order of training: complete, of one bucket at a time, and a pure function of the step."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from velatura.data.batching.cycles import in_cycles
from velatura.data.batching.epochs import Uses
from velatura.data.batching.lanes import Incomplete
from velatura.data.batching.order import BatchPlan, OrderedPlan, Placed
from velatura.data.batching.plan import Entry
from velatura.data.batching.rated import Fading
from velatura.data.items import Item, Treatment
from velatura.data.places import FilePlace
from velatura.data.text.captions import Caption


def entry(name: str, lane: int = 0, *, share: float = 1, rating: float = 1, group: str = "") -> Entry:
    item = Item(
        name=name,
        place=FilePlace(""),
        caption=Caption(),
        width=1,
        height=1,
        content=name,
        source=0,
        treatment=Treatment(rating=rating, group=group),
    )
    return Entry(item=item, bucket=(64 + lane, 64), share=share)


def entries(*counts: int) -> list[Entry]:
    """`counts[i]` entries in bucket i."""
    return [entry(f"{i}-{j}", i) for i, count in enumerate(counts) for j in range(count)]


def epochs_of(plan: BatchPlan, count: int) -> list[list[list[Placed]]]:
    """The micro-batches of the first epochs."""
    found: list[list[list[Placed]]] = [[] for _ in range(count + 1)]
    step = 0
    while not found[count]:
        for batch in plan.micro_batches(step):
            found[min(batch[0].epoch, count)].append(batch)
        step += 1
    return found[:count]


def names(batches: list[list[Placed]]) -> Counter[str]:
    return Counter(at.entry.item.name for batch in batches for at in batch)


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
    def order(seed: int, epoch: int) -> list[str]:
        plan = BatchPlan(entries(50), batch_size=5, seed=seed)
        return [
            at.entry.item.name
            for step in range(epoch * 10, epoch * 10 + 10)
            for at in plan.micro_batches(step)[0]
        ]

    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_company_changes_between_epochs() -> None:
    plan = BatchPlan(entries(8), batch_size=2, seed=1)
    pairs = {frozenset(at.entry.item.name for at in plan.micro_batches(step)[0]) for step in range(40)}
    assert len(pairs) > 10  # of 28 possible; 4 if the same images always came together


def test_report() -> None:
    plan = BatchPlan(entries(5, 2) * 2, batch_size=4, accumulate=2, seed=0)
    report = plan.report()
    assert report.buckets == {(64, 64): 10, (65, 64): 4}
    assert set(plan.uses().values()) == {2}
    assert (report.batches, report.small_batches, report.steps) == (4, 1, 2.0)


mixed = st.lists(
    st.builds(
        entry,
        st.uuids().map(str),
        st.integers(0, 2),
        share=st.sampled_from([1.0, 0.5, 1 / 3, 0.05]),
        rating=st.sampled_from([0.0, 0.5, 1.0, 5.0]),
        group=st.sampled_from(["", "", "horses", "dogs"]),
    ),
    min_size=1,
    max_size=25,
)
fadings = st.none() | st.builds(Fading, keep=st.floats(0.1, 1), epochs=st.integers(1, 5))


@settings(deadline=None, max_examples=60)
@given(
    mixed,
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(["small", "fill"]),
    fadings,
    st.integers(0, 60),
)
def test_any_plan_is_a_function_of_the_step(
    made: list[Entry], size: int, accumulate: int, incomplete: Incomplete, fading: Fading | None, step: int
) -> None:
    """Whatever the options: batches of one size and one group, and a plan that begins at a step goes on as another."""

    def plan() -> BatchPlan:
        return BatchPlan(
            made, batch_size=size, accumulate=accumulate, seed=3, incomplete=incomplete, fading=fading
        )

    walked = plan()
    for before in range(step):
        walked.micro_batches(before)
    batches = walked.micro_batches(step)
    assert plan().micro_batches(step) == batches
    assert len(batches) == accumulate
    for batch in batches:
        assert len({at.entry.lane for at in batch}) == 1
        assert len(batch) == size if incomplete == "fill" else 1 <= len(batch) <= size


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from([1.0, 0.5, 0.25, 0.3, 0.01]), min_size=1, max_size=30),
    st.integers(1, 12),
    st.integers(0, 5),
)
def test_fractional_repeats(shares: list[float], epochs: int, seed: int) -> None:
    """Each entry has its share of the epochs, and each epoch its share of the entries, as exactly as whole uses can."""
    uses = Uses([entry(str(i), share=share) for i, share in enumerate(shares)], seed=seed)
    used = np.array([uses.of(epoch) for epoch in range(epochs)])
    for share, column in zip(shares, used.T, strict=True):
        assert abs(column.sum() - share * epochs) < 1
    for share in set(shares):
        alike = [i for i, other in enumerate(shares) if other == share]
        assert all(abs(row[alike].sum() - share * len(alike)) < 1 for row in used)


def test_no_entry_of_a_share_is_preferred() -> None:
    """At 0.25, each of 40 entries in every fourth epoch, wherever it stands in the list."""
    plan = BatchPlan([entry(str(i), share=0.25) for i in range(40)], batch_size=4, seed=1)
    found = epochs_of(plan, 8)
    assert [sum(names(epoch).values()) for epoch in found] == [10] * 8
    assert set(sum((names(epoch) for epoch in found), Counter()).values()) == {2}


@pytest.mark.parametrize(("epoch", "share"), [(0, 1.0), (1, 0.95), (8, 0.6), (10, 0.5), (50, 0.5)])
def test_the_share_of_a_rated_dataset(epoch: int, share: float) -> None:
    assert Fading(keep=0.5, epochs=10).share(epoch) == pytest.approx(share)


def test_a_rated_dataset_fades() -> None:
    made = [replace(e, repeat=i) for e in entries(20) for i in range(2)]
    found = epochs_of(BatchPlan(made, batch_size=5, fading=Fading(keep=0.5, epochs=10)), 12)
    assert [len(names(epoch)) for epoch in found] == [20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 10]
    assert set(names(found[-1]).values()) == {2}, "an image that is used is used as often as ever"
    assert len({frozenset(names(epoch)) for epoch in found[-2:]}) == 2


def test_the_well_rated_stay_in_use() -> None:
    """20 images rated 1 and 20 rated 2, half of them drawn one by one: 7.6 and 12.4 of each on average.

    From a recursion over the draws: with a and b left, the next is one of the former with probability a / (a + 2 b).
    """
    left: dict[tuple[int, int], float] = {(20, 20): 1.0}
    for _ in range(20):
        after: dict[tuple[int, int], float] = {}
        for (low, high), chance in left.items():
            share = low / (low + 2 * high)
            after[low - 1, high] = after.get((low - 1, high), 0) + chance * share
            after[low, high - 1] = after.get((low, high - 1), 0) + chance * (1 - share)
        left = after
    expected = sum(chance * (20 - low) for (low, _), chance in left.items())
    assert expected == pytest.approx(7.6, abs=0.05)

    ratings = np.repeat([1.0, 2.0], 20)
    fading = Fading(keep=0.5, epochs=1)
    kept = np.array([fading.kept(ratings, 0, epoch) for epoch in range(1, 2001)])
    assert set(kept.sum(1)) == {20}
    assert kept[:, :20].sum(1).mean() == pytest.approx(expected, abs=0.2)  # 5 standard errors
    rates = kept.mean(0)
    assert np.ptp(rates[:20]) < 0.1, "the place in the list does not matter"
    assert np.ptp(rates[20:]) < 0.1


def test_groups_do_not_share_batches() -> None:
    made = [entry(f"{group}{i}", group=group) for group in ("", "horses", "dogs") for i in range(5)]
    for batch in epochs_of(BatchPlan(made, batch_size=4, seed=0), 1)[0]:
        assert len({at.entry.item.treatment.group for at in batch}) == 1


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.sampled_from(["", "a", "b", "c"]), st.integers(1, 12), min_size=1),
    st.integers(2, 5),
    st.integers(1, 4),
)
def test_groups_stay_together_in_steps(counts: dict[str, int], accumulate: int, epochs: int) -> None:
    """All of an epoch, and no group in many more steps than it must be in, also where epochs end within a step."""
    made = [entry(f"{group}{i}", group=group) for group, count in counts.items() for i in range(count)]
    plan = BatchPlan(made, batch_size=1, accumulate=accumulate, seed=5)
    steps = [plan.micro_batches(step) for step in range(-(-len(made) * epochs // accumulate))]
    for epoch in range(epochs):
        mine = [[batch[0] for batch in step if batch[0].epoch == epoch] for step in steps]
        assert names(mine) == Counter(e.item.name for e in made)
        torn = 0
        for group, count in counts.items():
            touched = sum(any(at.entry.item.treatment.group == group for at in step) for step in mine)
            torn += touched - -(-count // accumulate) if group else 0
        assert torn <= sum(1 for step in mine if step), "at most one group is torn at each border of steps"


@pytest.mark.parametrize(
    ("groups", "free", "expected"),
    [
        (["1111", "22", "333"], "", ["1111", "2333", "2"]),
        (["1111", "22"], "99", ["1111", "2299"]),
        (["11111"], "99", ["1111", "199"]),
    ],
)
def test_cycles_by_hand(groups: list[str], free: str, expected: list[str]) -> None:
    cycles = in_cycles([[int(i) for i in group] for group in groups], [int(i) for i in free], size=4)
    assert sorted("".join(sorted(map(str, cycle))) for cycle in cycles) == sorted(expected)


def test_a_cycle_that_an_earlier_epoch_began() -> None:
    assert [len(cycle) for cycle in in_cycles([[1] * 5], [2] * 4, size=4, first=3)] == [3, 4, 2]
    assert in_cycles([[1, 1, 1, 1]], [2, 2], size=4, first=1) == [[2], [1, 1, 1, 1], [2]]
    assert in_cycles([], [2], size=4, first=3) == [[2]]


def test_incomplete_batches_are_filled_and_reported() -> None:
    """10 and 3 entries in fours: 2 and 1 uses more, of which a lane's entries have an equal part."""
    plan = BatchPlan(entries(10, 3), batch_size=4, seed=0, incomplete="fill")
    report = plan.report()
    assert (report.batches, report.small_batches, report.fillers, report.images) == (4, 0, 3, 16)
    uses = {entry.item.name: plan.uses()[entry.item.identity] for entry in plan.entries}
    assert uses["0-0"] == pytest.approx(1.2)
    assert uses["1-0"] == pytest.approx(4 / 3)
    total: Counter[str] = Counter()
    for epoch in epochs_of(plan, 300):
        assert [len(batch) for batch in epoch] == [4] * 4
        used = names(epoch)
        assert sorted(used.values()) == [1] * 10 + [2] * 3
        assert all(
            len({at.entry.item.name for at in batch}) == 4
            for batch in epoch
            if batch[0].entry.bucket[0] == 64
        )
        total += used
    assert all(total[f"0-{i}"] == pytest.approx(360, abs=40) for i in range(10))  # 360 +- 7 on average


def test_a_lane_smaller_than_half_a_batch_is_filled() -> None:
    batch = BatchPlan(entries(2), batch_size=5, incomplete="fill").micro_batches(0)[0]
    assert sorted(Counter(at.entry.item.name for at in batch).values()) == [2, 3]
    assert [at.slot for at in batch] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_a_new_epoch_of_a_large_set_is_cheap() -> None:
    """Well under a second each for 100,000 entries, with all that an order can be asked for."""
    made = [
        entry(
            str(i), i % 9, share=1 if i % 2 else 0.3, rating=1 + i % 5, group="" if i % 3 else f"g{i % 999}"
        )
        for i in range(100_000)
    ]
    plan = BatchPlan(made, batch_size=4, accumulate=4, incomplete="fill", fading=Fading(keep=0.5, epochs=5))
    plan.micro_batches(0)
    step = plan.batches_per_epoch // 4 + 1
    started = time.process_time()
    plan.micro_batches(step)
    assert time.process_time() - started < 1.0


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
