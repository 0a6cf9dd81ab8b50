"""One optimizer step with an objective that is a straight line: everything can be worked out by hand."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from velatura.adapters.lora import Down
from velatura.draws import Draw
from velatura.errors import NumericError, RecipeError
from velatura.events import BatchSplit
from velatura.interfaces import Batch, Conditioning, Loss, Parts, Prompt
from velatura.training.health.splitting import Splitter
from velatura.training.optimizers.in_backward import InBackward
from velatura.training.step import NotFiniteStep, Stepper

from ..tiny import Log

CPU = torch.device("cpu")


class Line:
    """The loss of an item with value v is v w: its gradient is v."""

    def __init__(self, weight: nn.Parameter, passes: int = 1) -> None:
        self.weight = weight
        self.passes = passes
        self.draws: list[Draw] = []

    def losses(self, family: Any, parts: Any, batch: Batch, draw: Draw) -> Iterator[Loss]:
        self.draws.append(draw)
        assert batch.latents is not None
        for _ in range(self.passes):
            values = batch.latents.flatten(1)[:, 0]
            yield Loss(per_item=values * self.weight, weight=batch.weights, terms={"v": float(values.mean())})


def batch(values: Sequence[float], *, first: int = 0, weights: Sequence[float] | None = None) -> Batch:
    count = len(values)
    return Batch(
        names=tuple(f"{value:g}.png" for value in values),
        prompts=(Prompt(text=""),) * count,
        weights=torch.tensor(weights or [1.0] * count),
        slots=tuple(range(first, first + count)),
        latents=torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1),
        conditioning=Conditioning(tensors={"x": torch.zeros(count)}),
    )


def stepper(
    objective: Line, *, clip: float = 0.0, dtype: torch.dtype = torch.float32, rate: float = 1.0
) -> Stepper:
    return Stepper(
        family=None,  # type: ignore[arg-type]
        parts=Parts(info=None),  # type: ignore[arg-type]
        objective=objective,  # type: ignore[arg-type]
        optimizer=torch.optim.SGD([objective.weight], lr=rate),
        parameters=[objective.weight],
        clip=clip,
        device=CPU,
        dtype=dtype,
        autocast=False,
    )


def line(value: float = 10.0, passes: int = 1) -> Line:
    return Line(nn.Parameter(torch.tensor(value)), passes)


def test_the_mean_is_over_items_not_over_micro_steps() -> None:
    """Items 1, 2, 3 and 10 in batches of 3 and 1: their mean is 4; the mean of the batches' means would be 6."""
    objective = line()
    result = stepper(objective)([batch([1, 2, 3]), batch([10], first=3)], seed=0, step=0)
    assert objective.weight.item() == pytest.approx(10 - 4)
    assert result.loss == pytest.approx(4 * 10)
    assert result.grad_norm == pytest.approx(4)


def test_weights_weigh_items_over_all_micro_steps() -> None:
    """(1 * 1 + 3 * 5) / 4."""
    objective = line()
    batches = [batch([1], weights=[1.0]), batch([5], first=1, weights=[3.0])]
    result = stepper(objective)(batches, seed=0, step=0)
    assert objective.weight.item() == pytest.approx(10 - 4)
    assert result.loss == pytest.approx(40)


def test_passes_of_one_batch_add_up() -> None:
    objective = line(passes=2)
    assert stepper(objective)([batch([3.0])], seed=0, step=0).loss == pytest.approx(60)
    assert objective.weight.item() == pytest.approx(10 - 6)


def test_clipping_limits_the_norm_and_reports_what_it_was() -> None:
    objective = line()
    result = stepper(objective, clip=0.5)([batch([8.0])], seed=0, step=0)
    assert result.grad_norm == pytest.approx(8)
    assert objective.weight.item() == pytest.approx(9.5, abs=1e-5)


def test_draws_know_the_step_and_the_slots_of_the_global_batch() -> None:
    objective = line()
    stepper(objective)([batch([1, 2]), batch([3], first=2)], seed=5, step=8)
    assert objective.draws == [Draw(seed=5, step=8, slots=(0, 1)), Draw(seed=5, step=8, slots=(2,))]


def test_gradients_of_a_step_do_not_reach_the_next() -> None:
    objective = line()
    step = stepper(objective)
    for number, expected in enumerate([9.0, 8.0, 7.0]):
        step([batch([1.0])], seed=0, step=number)
        assert objective.weight.item() == pytest.approx(expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_its_items(bad: float) -> None:
    objective = line()
    with pytest.raises(NumericError) as caught:
        stepper(objective)([batch([1.0]), batch([2.0, bad, 3.0], first=1)], seed=0, step=6)
    assert f"step 7: the loss is not finite for {bad:g}.png (computed in torch.float32)" in str(caught.value)
    assert "2.png" not in str(caught.value)
    assert "Nothing was updated" in str(caught.value)
    assert objective.weight.item() == 10
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("dtype", "advised"),
    [(torch.float16, ['"bf16"', '"fp32"']), (torch.bfloat16, ['"fp32"']), (torch.float32, [])],
)
def test_only_a_wider_precision_is_advised(dtype: torch.dtype, advised: list[str]) -> None:
    step = stepper(line())
    step.dtype = dtype
    with pytest.raises(NumericError, match="ower the learning rate") as caught:
        step([batch([math.nan])], seed=0, step=0)
    assert [name for name in ('"bf16"', '"fp32"') if name in str(caught.value)] == advised


def in_backward(objective: Line, *others: nn.Parameter) -> Stepper:
    parameters = {str(number): p for number, p in enumerate([objective.weight, *others])}
    step = stepper(objective)
    step.optimizer = step.in_backward = InBackward(
        parameters, lambda named: torch.optim.SGD(list(named.values()), lr=1.0)
    )
    step.parameters = list(parameters.values())
    return step


def test_updates_in_the_backward_pass_are_the_same() -> None:
    plain, fused = line(), line()
    expected = stepper(plain)([batch([1, 2, 6])], seed=0, step=0)
    assert in_backward(fused)([batch([1, 2, 6])], seed=0, step=0) == expected
    assert fused.weight.item() == plain.weight.item() == 10 - 3


def test_in_the_backward_pass_a_loss_that_is_not_finite_is_found_before_it() -> None:
    objective = line()
    with pytest.raises(
        NotFiniteStep, match=r"step 4: the loss is not finite for nan.png .* Nothing was updated"
    ):
        in_backward(objective)([batch([1, math.nan])], seed=0, step=3)
    assert objective.weight.item() == 10


def test_a_step_that_is_half_made_says_so() -> None:
    """The weight that is used last has its gradient first."""
    late = nn.Parameter(torch.tensor(1.0))

    class Two(Line):
        def losses(self, family: Any, parts: Any, batch: Batch, draw: Draw) -> Iterator[Loss]:
            assert batch.latents is not None
            per_item = (self.weight * 0).sqrt() * late + late * batch.latents.flatten(1)[:, 0]
            yield Loss(per_item=per_item, weight=batch.weights)

    objective = Two(nn.Parameter(torch.tensor(2.0)))
    with pytest.raises(NumericError) as caught:
        in_backward(objective, late)([batch([1.0])], seed=0, step=0)
    assert not isinstance(caught.value, NotFiniteStep)
    assert "step 1: the gradient of 0 is not finite for 1.png" in str(caught.value)
    assert "1 of 2 weight tensors had been updated by then" in str(caught.value)
    assert late.item() == 0
    assert objective.weight.item() == 2


def test_several_losses_cannot_be_updated_between() -> None:
    with pytest.raises(RecipeError, match="fused_backward = true: Line has several losses in a step"):
        in_backward(line(passes=2))([batch([1.0])], seed=0, step=0)


class Steep(Line):
    """Finite losses, gradients that are not: sqrt at zero."""

    def losses(self, family: Any, parts: Any, batch: Batch, draw: Draw) -> Iterator[Loss]:
        assert batch.latents is not None
        values = batch.latents.flatten(1)[:, 0]
        yield Loss(per_item=(self.weight * values).sqrt(), weight=batch.weights)


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    objective = Steep(nn.Parameter(torch.tensor(0.0)))
    with pytest.raises(NumericError, match=r"step 1: the gradient is not finite for 1.png, 2.png"):
        stepper(objective)([batch([1, 2])], seed=0, step=0)
    assert objective.weight.item() == 0
    assert objective.weight.grad is None


def test_fp16_scales_the_loss_and_skips_what_overflows() -> None:
    """The loss scale starts at 65536 and is halved when a scaled gradient is infinite; that step is left out."""
    objective = line()
    step = stepper(objective, dtype=torch.float16, rate=1.0)
    scales = []
    for number, value in enumerate([2.0, 1e35, 3.0]):  # 1e35 * 65536 overflows float32
        result = step([batch([value])], seed=0, step=number)
        scales.append(step.scaler.get_scale())
        assert result.skipped == (number == 1)
        assert math.isfinite(result.loss)
    assert objective.weight.item() == pytest.approx(10 - 2 - 3)
    assert scales == [65536, 32768, 32768]


def test_fp16_stops_at_a_loss_that_is_not_finite() -> None:
    objective = line()
    with pytest.raises(NumericError, match="not finite for nan.png"):
        stepper(objective, dtype=torch.float16)([batch([math.nan])], seed=0, step=0)


def test_fp16_goes_on_as_before_after_a_step_that_was_not_finite() -> None:
    objective = line()
    step = stepper(objective, dtype=torch.float16)
    step([batch([2.0])], seed=0, step=0)
    with pytest.raises(NotFiniteStep):
        step([batch([1.0]), batch([math.nan], first=1)], seed=0, step=1)
    step([batch([3.0])], seed=0, step=2)
    assert objective.weight.item() == pytest.approx(10 - 2 - 3)
    assert step.scaler.get_scale() == 65536


@pytest.mark.parametrize("rate", [math.inf, 3e38, math.nan])
def test_an_update_that_breaks_the_weights_is_seen_at_once(rate: float) -> None:
    objective = line()
    with pytest.raises(
        NumericError, match=r"step 5: its update made trained weights that are not finite.* \(it was"
    ):
        stepper(objective, rate=rate)([batch([2.0])], seed=0, step=4)


def test_weights_that_were_broken_before_are_not_blamed_on_the_pictures() -> None:
    with pytest.raises(
        NumericError, match="because the trained weights were not finite before this step"
    ) as caught:
        stepper(line(math.nan))([batch([1.0])], seed=0, step=0)
    assert "png" not in str(caught.value)


def test_frozen_weights_are_told_by_name() -> None:
    step = stepper(line())
    step.parts.denoiser = nn.ModuleDict({"good": nn.Linear(2, 2), "bad": nn.Linear(2, 2)})
    step.parts.denoiser["bad"].weight.data[0, 1] = math.inf
    with pytest.raises(
        NumericError, match=r"weights of the denoiser are not finite \(1 tensor is, the first is bad.weight"
    ):
        step([batch([math.nan])], seed=0, step=0)


def test_fp16_that_never_stops_overflowing_is_an_error() -> None:
    """30 halvings take the loss scale from 2^16 to 2^-14, the smallest normal number; there it ends."""
    objective = Steep(nn.Parameter(torch.tensor(0.0)))
    step = stepper(objective, dtype=torch.float16)
    assert all(step([batch([1.0])], seed=0, step=number).skipped for number in range(30))
    with pytest.raises(
        NumericError, match='step 31: fp16 overflowed in each of the last.* "bf16" or "fp32", or lower'
    ):
        step([batch([1.0])], seed=0, step=30)


def test_the_loss_scaler_goes_on_where_it_stopped() -> None:
    import json

    one, two = (stepper(line(), dtype=torch.float16) for _ in range(2))
    one([batch([1e35])], seed=0, step=0)
    two.scaler.load_state_dict(json.loads(json.dumps(one.scaler.state_dict())))
    assert two.scaler.state_dict() == one.scaler.state_dict()
    assert two.scaler.get_scale() == 32768


def test_terms_are_means_over_items_not_over_micro_steps() -> None:
    """Items 1, 3 and 5: the mean of the batches' means would be 3.5."""
    result = stepper(line())([batch([1, 3]), batch([5], first=2)], seed=0, step=0)
    assert result.terms == {"v": pytest.approx(3)}


def test_inputs_of_the_denoiser_take_the_precision_and_latents_do_not() -> None:
    seen: list[Tensor] = []

    class Looking(Line):
        def losses(self, family: Any, parts: Any, batch: Batch, draw: Draw) -> Iterator[Loss]:
            assert batch.conditioning is not None
            assert batch.latents is not None
            seen.extend([batch.conditioning.tensors["x"], batch.latents])
            yield from super().losses(family, parts, batch, draw)

    stepper(Looking(nn.Parameter(torch.tensor(1.0))), dtype=torch.float16)([batch([1.0])], seed=0, step=0)
    assert [tensor.dtype for tensor in seen] == [torch.float16, torch.float32]


class Narrow(Line):
    """Memory for `most` items at once."""

    def __init__(self, weight: nn.Parameter, most: int) -> None:
        super().__init__(weight)
        self.most = most
        self.sizes: list[int] = []

    def losses(self, family: Any, parts: Any, batch: Batch, draw: Draw) -> Iterator[Loss]:
        self.sizes.append(len(batch.names))
        yield from super().losses(family, parts, batch, draw)
        if len(batch.names) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def narrow(most: int) -> tuple[Narrow, Stepper, Log]:
    objective, log = Narrow(nn.Parameter(torch.tensor(10.0)), most), Log()
    step = stepper(objective)
    step.splitter = Splitter(events=log.events, scale=8)
    return objective, step, log


def test_where_memory_runs_out_the_step_is_repeated_in_smaller_batches() -> None:
    """The first passes were made and count for nothing: the mean of 1, 2, 3, 4, 5 and, with weight 3, 10 is 5.625."""
    objective, step, log = narrow(2)
    batches = [batch([1, 2]), batch([3, 4, 5], first=2), batch([10], first=5, weights=[3.0])]
    result = step(batches, seed=5, step=0)
    assert objective.weight.item() == pytest.approx(10 - 5.625)
    assert result.loss == pytest.approx(56.25)
    assert result.grad_norm == pytest.approx(5.625)
    assert result.terms == {"v": pytest.approx(25 / 6)}
    assert objective.sizes == [2, 3, 2, 1, 2, 1]
    assert [draw.slots for draw in objective.draws[2:]] == [(0, 1), (2,), (3, 4), (5,)]
    assert log.of(BatchSplit) == [BatchSplit(step=1, size="8x8", items=3, most=2)]
    assert "step 1: memory ran out with 3 images of 8x8 at once" in log.texts


def test_before_a_step_is_repeated_its_activations_are_let_go() -> None:
    """Those that a shared down projection waits with: it had been read by one of two layers when memory ran out."""

    class Shared(Narrow):
        seen: list[weakref.ref[torch.Tensor]]

        def losses(self, family: Any, parts: Any, batch: Batch, draw: Draw) -> Iterator[Loss]:
            assert all(ref() is None for ref in self.seen)
            early = torch.ones(len(batch.names), 4) * self.weight
            self.seen.append(weakref.ref(early))
            parts.denoiser(early)
            del early
            yield from super().losses(family, parts, batch, draw)
            parts.denoiser(torch.ones(1, 4))  # the second reader, of something else

    objective = Shared(nn.Parameter(torch.tensor(10.0)), 1)
    objective.seen = []
    step = stepper(objective)
    step.splitter = Splitter(events=Log().events, scale=8)
    step.parts.denoiser = Down(torch.ones(2, 4), readers=2)
    step([batch([1, 2])], seed=5, step=0)
    assert objective.sizes == [2, 1, 1]


def test_what_fits_is_remembered_for_its_size() -> None:
    objective, step, log = narrow(3)
    step([batch(range(1, 17))], seed=0, step=0)
    assert [event.most for event in log.of(BatchSplit)] == [8, 4, 2]
    objective.sizes.clear()
    step([batch(range(1, 6))], seed=0, step=1)
    assert objective.sizes == [1, 2, 2]
    assert step.splitter is not None
    assert step.splitter.most == {"8x8": 2}


def test_large_batches_are_computed_in_passes_of_a_size_that_is_said() -> None:
    """As one pass of all would have it: the mean of 1, 2, 3, 4, 5 and, with weight 3, 10 is 5.625."""
    objective, step, log = narrow(9)
    step.splitter = Splitter(events=log.events, scale=8, limit=2, shrinks=False)
    batches = [batch([1, 2, 3, 4, 5]), batch([10], first=5, weights=[3.0])]
    result = step(batches, seed=5, step=0)
    assert objective.weight.item() == pytest.approx(10 - 5.625)
    assert (result.loss, result.images) == (pytest.approx(56.25), 6)
    assert result.terms == {"v": pytest.approx(25 / 6)}
    assert objective.sizes == [1, 2, 2, 1]
    assert [draw.slots for draw in objective.draws] == [(0,), (1, 2), (3, 4), (5,)]
    assert log.of(BatchSplit) == []


def test_a_size_that_is_said_is_not_made_smaller_unasked() -> None:
    objective, step, log = narrow(1)
    step.splitter = Splitter(events=log.events, scale=8, limit=2, shrinks=False)
    with pytest.raises(torch.OutOfMemoryError):
        step([batch([1, 2, 3, 4])], seed=0, step=0)
    step.splitter = Splitter(events=log.events, scale=8, limit=2)
    objective.sizes.clear()
    step([batch([1, 2, 3, 4])], seed=0, step=0)
    assert objective.sizes == [2, 1, 1, 1, 1]


def test_what_was_learned_of_sizes_does_not_count_where_nothing_is_made_smaller() -> None:
    """A resumed run has it in its state, and may forbid it now."""
    objective, step, log = narrow(9)
    step.splitter = Splitter(events=log.events, scale=8, shrinks=False, most={"8x8": 1})
    step([batch([1, 2, 3])], seed=0, step=0)
    assert objective.sizes == [3]


def test_one_item_that_does_not_fit_ends_the_run() -> None:
    _, step, _ = narrow(0)
    with pytest.raises(torch.OutOfMemoryError):
        step([batch([1, 2])], seed=0, step=0)


def test_without_a_splitter_nothing_is_tried_again() -> None:
    objective, step, _ = narrow(2)
    step.splitter = None
    with pytest.raises(torch.OutOfMemoryError):
        step([batch([1, 2, 3])], seed=0, step=0)
    assert objective.sizes == [3]


def test_other_errors_are_not_tried_again() -> None:
    objective, step, _ = narrow(9)

    def wrong(*_: Any) -> Iterator[Loss]:
        objective.sizes.append(0)
        raise RuntimeError("shapes do not fit")
        yield

    objective.losses = wrong  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes"):
        step([batch([1, 2])], seed=0, step=0)
    assert objective.sizes == [0]
