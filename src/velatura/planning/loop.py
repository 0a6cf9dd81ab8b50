"""The training loop, and the previews within it: their real code, with tensors that have no values."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from velatura.interfaces import Batch, Conditioning, Parts, Pieces, Prompt
from velatura.placement.compiling import decide_updates
from velatura.placement.recompute import Policy, recompute
from velatura.planning.assembly import Assembled, weights
from velatura.planning.devices import Device
from velatura.planning.marks import inputs_noted, marked
from velatura.planning.on_cuda import recomputed_on_cuda
from velatura.planning.optimizer import stepped_optimizer
from velatura.planning.phases import Phase, Shape, at_once
from velatura.planning.repeats import Again, mixed, whole
from velatura.planning.replay import CPU, VALUELESS
from velatura.planning.steering import steered
from velatura.planning.tracking import Bytes, Segment, Tracker, Work
from velatura.sampling.painter import paint, request_texts
from velatura.sampling.request import Request
from velatura.training.optimizers.by_tensor import Move
from velatura.training.optimizers.visits import LEAST
from velatura.training.setup import Setup
from velatura.training.step import Stepper

DECODING = "decode"


@dataclass(frozen=True, kw_only=True)
class Followed:
    """An optimizer step, or a preview, as the blocks that are left do it."""

    what: str
    segments: Sequence[Segment]
    more: Bytes  # what blocks that were left out hold all the time
    inputs: tuple[int, ...] = ()  # bytes, of each repeated kind of block
    known: int = 0  # bytes that wait for all steps of a preview

    def towards(self, other: Followed, share: float) -> Followed:
        """A step between two that differ in how they are done."""
        return replace(self, segments=mixed(self.segments, other.segments, share))


class Training:
    """The loop's parts, optimizer and state. Its phases may be followed one after the other, in any order.

    Recipes that differ in `[training]` alone, but for the precision, share one.
    """

    def __init__(
        self, setup: Setup, assembled: Assembled, conditioning: Conditioning, device: Device
    ) -> None:
        self.setup = setup
        self.assembled = assembled
        self.conditioning = conditioning
        self.device = device
        self.dtype = (
            torch.bfloat16 if setup.dtype == torch.float16 else setup.dtype
        )  # of equal size, and no scaler
        denoiser = assembled.parts.denoiser
        self.blocks = [] if denoiser is None else list(setup.family.blocks(denoiser))
        parameters = assembled.parameters
        trained = sum(parameter.numel() for parameter in parameters.values())
        self.trained = trained + assembled.more_trained
        self._tracker: Tracker | None = None  # which follows the phase at hand
        compiled = self._in_a_kernel if self._compiles_updates() else None
        self.optimizer = stepped_optimizer(setup.recipe.optimizer, parameters, compiled)
        held = sum(tensor.nbytes for tensor in self._state())
        self.more = assembled.more.plus({"optimizer": held * assembled.more_trained // max(1, trained)})
        self.stepper = Stepper(
            family=setup.family,
            parts=assembled.parts,
            objective=setup.objective,
            optimizer=self.optimizer,
            parameters=list(parameters.values()),
            clip=setup.recipe.optimizer.clip,
            device=CPU,
            dtype=self.dtype,
            autocast=assembled.autocast,
        )

    @property
    def averages(self) -> int:
        """Bytes of the average of the trained values, where it is on the device."""
        ema = self.setup.recipe.ema
        return 0 if ema is None or ema.device == "cpu" else 4 * self.trained

    @property
    def kept_aside(self) -> int:
        """Bytes of the values themselves while averages are in their place: narrow ones, see `Ema.in_place`."""
        full = self.setup.recipe.full
        return 2 * self.trained if self.averages and full is not None and full.weights == "bf16" else 0

    def showing(self) -> Phase:
        """Averages in the place of the values, as when they are validated or written."""
        peak = self.resident.plus({"averages": self.kept_aside})
        return Phase(name="export", what="averages", moments=at_once(peak), work=Work())

    @cached_property
    def resident(self) -> Bytes:
        """What is held all the time: weights, trained values, optimizer state, averages."""
        tracker = Tracker(self.device)
        self._know(tracker)
        with tracker:
            pass
        return tracker.segments[-1].end.plus(self.more)

    def offloaded(self) -> int:
        """Bytes of the optimizer's state that `optimizer.offload` keeps in the machine's memory."""
        held = sum(tensor.nbytes for tensor in self._state())
        large = sum(tensor.nbytes for tensor in self._state() if tensor.nbytes >= LEAST)
        return self.resident["optimizer"] * large // max(1, held)

    def follow(
        self,
        shape: Shape,
        *,
        accumulated: bool,
        recomputed: Policy,
        ahead: bool = False,
        pieces: Pieces = "auto",
    ) -> Followed:
        """One optimizer step; where it has several forward passes, the last, beside the gradients of earlier ones.

        `ahead`: layers that run ahead of their blocks are recomputed too.
        """
        more = self.more
        self.assembled.parts.pieces = pieces
        with VALUELESS:
            batch = _batch(self.setup, shape, self.conditioning)
            tracker = Tracker(self.device)
            if accumulated:
                for parameter in self.assembled.parameters.values():
                    parameter.grad = torch.zeros_like(parameter)
                more = more.plus({"gradients": more["trained"]})
            self._know(tracker)
            self._tracker = tracker
            trained = self.assembled.parameters.values()
            with warnings.catch_warnings(), tracker, marked(tracker, self.blocks, trained):
                warnings.simplefilter("ignore")  # of kernels of the CPU, which is not what is planned
                with self._recomputing(recomputed, ahead), inputs_noted(self.blocks) as inputs:
                    self.stepper([batch], 0, 0)
        places = self.assembled.left_out
        return Followed(
            what=str(shape),
            segments=tracker.segments,
            more=more,
            inputs=tuple(inputs[place] for place in places),
        )

    def step(self, own: Followed, again: Followed | None = None, places: Collection[int] = ()) -> Phase:
        """A step of the whole network; the blocks at `places` do what they do in `again`."""
        left_out = self.assembled.left_out
        done = whole(
            own.segments,
            left_out,
            own.more,
            self.trained / (self.trained - self.assembled.more_trained),
            freed=self.setup.recipe.optimizer.fused_backward,
            again=None if again is None else Again(segments=again.segments, places=places),
        )
        return Phase(
            name="step",
            what=own.what,
            moments=done.moments,
            work=done.work,
            update=done.update,
            kept=done.turn["activations"],
            per_block=_per_block(own.segments, left_out),
            inputs=own.inputs,
        )

    @torch.no_grad()
    def follow_preview(
        self,
        request: Request,
        pieces: Pieces = "auto",
        *,
        denoiser: Parts,
        recomputed: Policy = False,
        ahead: bool = False,
    ) -> Followed:
        """One preview: a step of its sampling with what is known of all steps, and its decoding.

        `denoiser`: the whole one, with storage and without values. `recomputed`, `ahead`: as in `follow`; of what is
        recomputed autocast keeps no copies.
        """
        self.assembled.parts.pieces = pieces
        family, texts = self.setup.family, len(request_texts(request))
        with VALUELESS, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kernels of the CPU, which is not what is planned
            conditioning = self.conditioning.map(lambda t: t.expand(texts, *t.shape[1:]).clone())
            known = steered(family, denoiser, request, conditioning)
            tracker = Tracker(self.device)
            self._know(tracker)
            with (
                tracker,
                marked(tracker, self.blocks, self.assembled.parameters.values()),
                self._recomputing(recomputed, ahead),
                self.stepper.precision(),
            ):
                once = replace(request, steps=1)
                latents = paint(family, self.stepper.parts, once, conditioning, device=CPU)
                tracker.mark((DECODING, 0))
                family.decode_latents(self.stepper.parts, latents[:1])
        return Followed(
            what=f"{request.width}x{request.height}",
            segments=tracker.segments,
            more=self.more.plus({"averages": self.kept_aside}),
            known=known,
        )

    def preview(
        self, steps: int, own: Followed, again: Followed | None = None, places: Collection[int] = ()
    ) -> Phase:
        """One of so many steps, of the whole network; the blocks at `places` do what they do in `again`."""
        done = whole(
            own.segments,
            self.assembled.left_out,
            own.more,
            again=None if again is None else Again(segments=again.segments, places=places),
        )
        decoding = own.segments[-1].work
        work = Work()
        work.add(done.work, steps)
        work.add(decoding, 1 - steps)
        moments = tuple(
            one if one.kind == DECODING else replace(one, held=one.held.plus({"activations": own.known}))
            for one in done.moments
        )
        return Phase(name="preview", what=own.what, moments=moments, work=work)

    def _compiles_updates(self) -> bool:
        training = self.setup.recipe.training
        device = torch.device(self.device.kind)
        return decide_updates(training.compile, values=self.trained, steps=training.steps, device=device)

    def _in_a_kernel(self, move: Move) -> Move:
        def followed(*update: Any) -> None:
            _, weight, gradient, state, noise, _ = update
            kernel: AbstractContextManager[None] = nullcontext()
            if self._tracker is not None:
                kernel = self._tracker.kernel(read=(gradient, noise), written=(weight, *state.values()))
            with kernel:
                move(*update)

        return followed

    def _know(self, tracker: Tracker) -> None:
        for kind, tensors in weights(self.assembled.parts).items():
            tracker.know(tensors, kind)
        parameters = self.assembled.parameters.values()
        tracker.know(parameters, "trained")
        tracker.know(self._state(), "optimizer")
        tracker.know((p.grad for p in parameters if p.grad is not None), "gradients")
        tracker.hold("averages", self.averages)

    def _state(self) -> Iterator[Tensor]:
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))

    @contextmanager
    def _recomputing(self, policy: Policy, ahead: bool) -> Iterator[None]:
        denoiser, family = self.assembled.parts.denoiser, self.setup.family
        feed_forwards = [] if denoiser is None else family.feed_forwards(denoiser)
        layers = family.ahead(denoiser) if denoiser is not None and ahead else []
        methods = [*((module, "forward") for module in (*self.blocks, *layers)), *feed_forwards]
        own = [(module, method, getattr(module, method)) for module, method in methods]
        if self.device.kind == "cuda":
            for module, method, run in own:
                setattr(module, method, recomputed_on_cuda(run))
        recompute(self.blocks, policy, feed_forwards)
        recompute(layers)
        try:
            yield
        finally:
            for module, method, run in own:
                setattr(module, method, run)


def _per_block(segments: Iterable[Segment], places: Iterable[int]) -> tuple[int, ...]:
    """Activations that the forward pass of one block of each repeated kind leaves."""
    grown = {one.label: one.end["activations"] - one.start["activations"] for one in segments}
    return tuple(grown["forward", place] for place in places)


def _batch(setup: Setup, shape: Shape, conditioning: Conditioning) -> Batch:
    """A batch as the loader gives it: cached where the run caches."""
    info, count = setup.info, shape.count
    size = shape.height // info.latent_scale, shape.width // info.latent_scale
    latents = torch.zeros(count, info.latent_channels, *size) if setup.caches_latents else None
    images = None if setup.caches_latents else torch.zeros(count, 3, shape.height, shape.width)
    cached = conditioning.map(lambda t: t.expand(count, *t.shape[1:]).clone()) if setup.caches_text else None
    return Batch(
        names=("image",) * count,
        prompts=(Prompt(text="a"),) * count,
        weights=torch.ones(count),
        slots=tuple(range(count)),
        latents=latents,
        images=images,
        conditioning=cached,
    )
