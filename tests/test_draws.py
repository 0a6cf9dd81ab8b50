"""Random numbers depend on (seed, stream, step, slot) and on nothing else."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from velatura.draws import Draw, generator_for, permutation


def everything(draw: Draw) -> list[torch.Tensor]:
    return [
        draw.normal("noise", (3, 5)),
        draw.uniform("t"),
        draw.uniform("crop", (2,)),
        torch.tensor(draw.integers("k", 1000)),
    ]


def test_a_slot_does_not_see_the_rest_of_the_batch() -> None:
    whole = everything(Draw.of(1, step=7, slots=6))
    for slots in ([4], [5, 0], [3, 3, 1], range(6)):
        part = everything(Draw.of(1, step=7, slots=slots))
        assert all(torch.equal(a[list(slots)], b) for a, b in zip(whole, part, strict=True))


def test_two_halves_of_a_batch_are_the_whole() -> None:
    whole = Draw.of(5, step=2, slots=4)
    halves = [whole.select([0, 1]), whole.select([2, 3])]
    for together, first, second in zip(everything(whole), *map(everything, halves), strict=True):
        assert torch.equal(together, torch.cat((first, second)))


def test_the_order_of_asking_does_not_matter() -> None:
    draw = Draw.of(2, slots=3)
    first, second = draw.normal("a", (4,)), draw.normal("b", (4,))
    again = Draw.of(2, slots=3)
    assert torch.equal(again.normal("b", (4,)), second)
    assert torch.equal(again.normal("a", (4,)), first)
    assert torch.equal(again.normal("a", (4,)), first)


@pytest.mark.parametrize(
    "other",
    [
        Draw.of(10, step=3, slots=[5]),
        Draw.of(9, step=4, slots=[5]),
        Draw.of(9, step=3, slots=[4]),
        Draw.of(9, step=5, slots=[3]),  # step and slot do not add up to one number
        Draw.of(9, step=3, slots=[5 + 2**32]),
    ],
)
def test_seed_step_and_slot_each_make_a_difference(other: Draw) -> None:
    this = Draw.of(9, step=3, slots=[5])
    assert not torch.equal(this.normal("noise", (16,)), other.normal("noise", (16,)))
    assert not torch.equal(this.normal("noise", (16,)), this.normal("noise 2", (16,)))


def test_streams_of_one_slot_do_not_overlap() -> None:
    """A slot's long draw never runs into the next slot's or step's numbers."""
    draw = Draw.of(0, step=0, slots=2)
    long = draw.uniform("x", (100_000,))
    assert not torch.isin(long[1, :100], long[0]).all()
    for lag in (1, 2, 3, 4):
        shifted = np.corrcoef(long[0, lag:], long[1, :-lag])[0, 1]
        assert abs(shifted) < 0.02  # 6 deviations of 1/sqrt(n)


def test_normal_has_the_moments_of_a_normal() -> None:
    values = Draw.of(3, slots=4).normal("noise", (50_000,)).double()
    n = values.numel()
    assert values.dtype == torch.float64
    assert abs(values.mean()) < 4 / n**0.5
    assert abs(values.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((values**4).mean() - 3) < 4 * (96 / n) ** 0.5
    assert abs((values < -1.0).double().mean() - 0.158655) < 4 * (0.1335 / n) ** 0.5


def test_uniform_is_even_and_below_one() -> None:
    values = Draw.of(3, slots=4).uniform("t", (50_000,))
    assert values.dtype == torch.float32
    assert float(values.min()) >= 0
    assert float(values.max()) < 1
    counts = torch.histc(values, 20, 0, 1)
    chi_square = float(((counts - 10_000) ** 2 / 10_000).sum())
    assert chi_square < 43.8  # 19 degrees of freedom, p = 0.001


@pytest.mark.parametrize("shape", [(), (3,)])
def test_the_largest_uniform_number_is_below_one(monkeypatch: pytest.MonkeyPatch, shape: tuple[int]) -> None:
    """Random bits that are all ones: 24 of them fill the mantissa of a float32, and nothing is rounded up."""

    def all_ones(*_: object) -> np.random.Generator:
        twister = np.random.MT19937(0)
        state = twister.state
        state["state"]["key"][:] = 0x12DD9BB3  # which the twister tempers to 0xFFFFFFFF
        state["state"]["pos"] = 0
        twister.state = state
        return np.random.Generator(twister)

    monkeypatch.setattr("velatura.draws._generator", all_ones)
    values = Draw.of(0).uniform("t", shape)
    assert values.dtype == torch.float32
    assert values.flatten().tolist() == [1 - 2.0**-24] * values.numel()


def test_slots_are_even_too() -> None:
    """One number from each of many slots is as uniform as many numbers from one."""
    values = Draw.of(3, step=1, slots=2000).uniform("t")
    counts = torch.histc(values, 20, 0, 1)
    assert float(((counts - 100) ** 2 / 100).sum()) < 43.8


def test_integers_cover_their_range() -> None:
    values = Draw.of(4, slots=3000).integers("k", 3)
    counts = [values.count(k) for k in range(3)]
    assert sum(counts) == 3000
    assert all(abs(count - 1000) < 4 * (3000 * 2 / 9) ** 0.5 for count in counts)


def test_permutation_holds_everything_once_and_changes_with_the_epoch() -> None:
    first, second = permutation(1, "order", 0, 50), permutation(1, "order", 1, 50)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first == permutation(1, "order", 0, 50)


def test_global_generators_are_not_touched() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    everything(Draw.of(1, slots=2))
    permutation(1, "x", 0, 5)
    torch.rand(3, generator=generator_for(1, "x"))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_another_process_draws_the_same() -> None:
    code = (
        "from velatura.draws import Draw, generator_for, permutation; import torch;"
        "d = Draw.of(7, step=11, slots=[2, 9]);"
        "print(d.normal('n', (3,)).tolist(), d.uniform('u').tolist(), d.integers('i', 99), permutation(7, 'p', 1, 9),"
        "torch.rand(2, generator=generator_for(7, 'g')).tolist())"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    there = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "123"})
    draw = Draw.of(7, step=11, slots=[2, 9])
    here = [
        draw.normal("n", (3,)).tolist(),
        draw.uniform("u").tolist(),
        draw.integers("i", 99),
        permutation(7, "p", 1, 9),
        torch.rand(2, generator=generator_for(7, "g")).tolist(),
    ]
    assert there.stdout.strip() == " ".join(map(str, here))


def test_the_numbers_stay_what_they_are_from_version_to_version() -> None:
    """Philox-4x64 made by hand: key = blake2b(seed/stream), counter = (0, 0, slot, step)."""
    import hashlib

    key = np.frombuffer(hashlib.blake2b(b"42/noise", digest_size=16).digest(), np.uint64)
    philox = np.random.Philox(key=key, counter=np.array([0, 0, 6, 13], np.uint64))
    by_hand = np.random.Generator(philox).standard_normal(8, dtype=np.float32)
    assert Draw.of(42, step=13, slots=[6]).normal("noise", (8,))[0].tolist() == by_hand.tolist()
