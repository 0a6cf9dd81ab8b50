"""What one recipe needs on one device: memory of every phase, time per step, the machine's memory and disk."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch

from velatura.events import Events
from velatura.interfaces import Conditioning, Parts, Pieces
from velatura.placement.recompute import Policy, whole
from velatura.planning.assembly import Assembled, assemble, give, load_part, with_storage
from velatura.planning.away import Away, away, brought_for_previews, inputs_away, without, without_inputs
from velatura.planning.devices import Device
from velatura.planning.encoding import IMAGES, encode_images, encode_texts
from velatura.planning.loop import Followed, Training
from velatura.planning.phases import Phase, Shape, at_once
from velatura.planning.sizes import Sizes, occupied, sizes_of
from velatura.planning.tracking import Bytes, Work
from velatura.planning.workload import Workload, workload
from velatura.recipe.recipe import Recipe
from velatura.sampling.request import Request
from velatura.training.setup import Setup

AHEAD = "latents"  # the phase that can be done ahead, on the CPU; for captions there is memory.text_encoders
ENCODING = ("captions", AHEAD)  # phases before the denoiser is loaded

SEQUENCE = 3  # dimensions of conditioning that has tokens: [B, T, C]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The needs of a recipe. `phases` are in order of time."""

    work: Workload
    device: Device
    phases: tuple[Phase, ...]
    trained: int  # values
    report: str  # what is trained
    sizes: Sizes
    away: Away
    passes_of_batch: int
    brought: int  # bytes of streamed weights that stay on the device while previews are painted
    streamable: int  # bytes of the denoiser's blocks
    ahead: int  # of these, those of layers that run ahead of their block

    @property
    def recipe(self) -> Recipe:
        """What was planned."""
        return self.work.setup.recipe

    @property
    def step(self) -> Phase:
        """The training step."""
        return next(phase for phase in self.phases if phase.name == "step")

    @property
    def highest(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=self.occupied)

    @property
    def needed(self) -> int:
        """Bytes of the device's memory that the whole run needs."""
        return self.occupied(self.highest)

    @property
    def needed_ahead(self) -> int:
        """The same where images are encoded ahead, on the CPU."""
        phases = [phase for phase in self.phases if phase.name != AHEAD] or self.phases
        return max(map(self.occupied, phases))

    def too_large(self, budget: int) -> tuple[Phase, ...]:
        """The phases that need more than a budget, those that need most first."""
        return tuple(
            sorted((p for p in self.phases if self.occupied(p) > budget), key=lambda p: -self.occupied(p))
        )

    def encoded_elsewhere(self, budget: int) -> bool:
        """Whether a budget is enough once latents, which it is not enough for, are in the cache."""
        names = {phase.name for phase in self.too_large(budget)}
        return self.device.kind != "cpu" and names == {AHEAD}

    def fits_device(self, budget: int) -> bool:
        """Whether a budget in bytes of the device is enough, perhaps with encoding ahead on the CPU."""
        return not self.too_large(budget) or self.encoded_elsewhere(budget)

    @property
    def needed_of_host(self) -> int:
        """Bytes of the machine's own memory."""
        return self.sizes.of_host

    @property
    def fits_host(self) -> bool:
        """Whether the machine's own memory is enough, where it is known."""
        return self.device.host is None or self.needed_of_host <= self.device.host

    def fits(self, budget: int) -> bool:
        """Whether both are enough."""
        return self.fits_host and self.fits_device(budget)

    @property
    def passes(self) -> int:
        """Forward passes of an optimizer step at the largest size."""
        return self.passes_of_batch * self.recipe.training.accumulate

    @property
    def seconds(self) -> float:
        """Of one optimizer step at the largest size, without compiled blocks.

        What crosses the link does so beside the computation, but the update is made after the passes.
        """
        passes = max(self.computing_of_passes, self.copying * self.passes)
        return passes + max(self.step.update.seconds, self.copying_of_update)

    @property
    def computing(self) -> float:
        """Of these, those of the computation: of all passes, and of the update."""
        return self.computing_of_passes + self.step.update.seconds

    @property
    def computing_of_passes(self) -> float:
        """Of these, those of all passes."""
        return (self.step.work.seconds - self.step.update.seconds) * self.passes

    @property
    def copying(self) -> float:
        """Seconds of a pass, forward and backward, that go to what is elsewhere.

        Gradients of earlier passes come back to be added up; an update within the backward pass wants its averages.
        """
        fused = self.recipe.optimizer.fused_backward
        both_ways = 2 * self.away.per_pass - self.away.once + self.step.away
        in_step = self.away.gradients * (self.passes - 1) + (self.away.per_update if fused else 0)
        return (both_ways + in_step / self.passes) / self.device.link

    @property
    def copying_of_update(self) -> float:
        """The same of an update that is made after the passes."""
        return 0.0 if self.recipe.optimizer.fused_backward else self.away.per_update / self.device.link

    def occupied(self, phase: Phase) -> int:
        """Bytes of the device's memory in a phase.

        On the CPU with the program itself, the data in memory, and what other devices leave to the machine's memory.
        """
        found = occupied(self.device, phase.peak.total)
        if self.device.kind != "cpu":
            return found
        return found + self.sizes.data + (self.sizes.elsewhere if phase.name not in ENCODING else 0)


@dataclass(frozen=True)
class _Variant:
    """A variant of the recipe; two are equal where the loop holds the same."""

    key: tuple[object, ...]
    setup: Setup = field(compare=False)

    @staticmethod
    def of(setup: Setup) -> _Variant:
        recipe, optimizer = setup.recipe, setup.recipe.optimizer
        trained = None if recipe.full is None else recipe.full.weights
        memory = recipe.memory.weights, recipe.memory.split_attention
        return _Variant((setup.dtype, *memory, trained, optimizer.kind, optimizer.fused_backward), setup)


class Estimator:
    """Estimates of variants of one recipe on one device; what several have in common is followed once."""

    def __init__(self, work: Workload, device: Device) -> None:
        self.device = device
        self.work = work
        self._captions = cache(self._captions_in)
        self._latents = cache(self._latents_in)
        self._training = cache(self._training_of)
        self._preview = cache(self._preview_of)
        self._denoiser = cache(self._denoiser_in)
        self._followed = cache(self._followed_of)
        self._step = cache(self._step_of)

    @classmethod
    def of_recipe(cls, recipe: Recipe, base: Path, device: Device) -> Estimator:
        """For a recipe whose model and data may not be there yet. Raises RecipeError, DataError or ModelError."""
        return cls(workload(recipe, base, device, Events()), device)

    def of(self, recipe: Recipe) -> Estimate:
        """The needs of a recipe that differs from the first one in what a plan may change (see `levers`) only."""
        work = self._varied(recipe)
        setup, memory = work.setup, recipe.memory
        variant = _Variant.of(setup)
        captions, conditioning = self._captions(setup.dtype)
        training = self._training(variant)
        elsewhere = memory.text_encoders == "cpu" and self.device.kind != "cpu"
        phases = [captions] if setup.caches_text and not elsewhere else []
        if setup.caches_latents:
            phases.append(self._latents(setup.dtype, memory.autoencoder))
        if self.device.kind == "cpu" and memory.weights != "full":
            phases.append(_narrowing(training))
        gone = away(training, recipe, accumulated=work.accumulates)
        brought = brought_for_previews(training.assembled, recipe) if work.previews else 0
        if work.previews:
            preview = without(self._previewed(work, gone), gone)
            phases.append(preview.holding(lambda held: held.plus({gone.kind: brought})))
        phases.append(without(self._stepped(work, gone), gone))
        if training.kept_aside:
            phases.append(without(training.showing(), gone))
        if elsewhere:
            phases = [
                one.holding(lambda held: held.plus({"text encoders": -held["text encoders"]}))
                for one in phases
            ]
        return Estimate(
            work=work,
            device=self.device,
            phases=tuple(phases),
            trained=training.trained,
            report=training.assembled.report,
            sizes=sizes_of(
                work,
                training,
                conditioning,
                self.device,
                gone,
                inputs=next(phase for phase in phases if phase.name == "step").away,
                encoders=captions.peak.total if elsewhere and setup.conditioned else 0,
            ),
            away=gone,
            passes_of_batch=self._largest(work)[1],
            brought=brought,
            streamable=sum(training.assembled.ahead_sizes) + sum(training.assembled.block_sizes),
            ahead=sum(training.assembled.ahead_sizes),
        )

    def may_fit(self, recipe: Recipe, budget: int) -> bool:
        """False where what is held all the time, or the step, is too large already: found without the other phases."""
        work = self._varied(recipe)
        training = self._training(_Variant.of(work.setup))
        gone = away(training, recipe, accumulated=work.accumulates)
        resident = training.resident
        gradients = 0 if recipe.optimizer.fused_backward else resident["trained"]
        moments = at_once(resident.plus({"gradients": gradients}))
        held = Phase(name="held", what="", moments=moments, work=Work())
        if self.device.occupied(without(held, gone).peak.total) > budget:
            return False
        return self.device.occupied(without(self._stepped(work, gone), gone).peak.total) <= budget

    def _stepped(self, work: Workload, gone: Away) -> Phase:
        setup, section = work.setup, work.setup.recipe.training
        pieces = "auto" if setup.caches_latents else setup.recipe.memory.autoencoder
        followed = _Variant.of(setup), self._largest(work)[0], work.accumulates, pieces
        return self._step(
            followed, section.checkpoint_blocks, *gone.recomputed, setup.recipe.memory.offload_activations
        )

    def _largest(self, work: Workload) -> tuple[Shape, int]:
        """See `Workload.largest_pass`."""
        setup = work.setup
        return work.largest_pass(_tokens(self._captions(setup.dtype)[1]) if setup.conditioned else 0)

    def _step_of(
        self,
        which: tuple[_Variant, Shape, bool, Pieces],
        policy: Policy,
        streamed: tuple[int, ...],
        ahead: float,
        offloaded: bool,
    ) -> Phase:
        """The step; what is streamed and trained is recomputed, whatever is said of other blocks."""
        training = self._training(which[0])
        assembled = training.assembled

        def followed(policy: Policy, of_ahead: bool) -> Followed:
            return self._followed(*which, policy, of_ahead)

        own, again, places, share = _ways(followed, assembled, policy, streamed, ahead)
        step = training.step(own, again, places)
        if not offloaded:
            return step
        all_of_them = training.step(_with_ahead(followed, assembled, True, ahead))
        return without_inputs(step, inputs_away(all_of_them, assembled, share), all_of_them)

    def _followed_of(
        self, variant: _Variant, shape: Shape, accumulated: bool, pieces: Pieces, policy: Policy, ahead: bool
    ) -> Followed:
        training = self._training(variant)
        return training.follow(shape, accumulated=accumulated, recomputed=policy, ahead=ahead, pieces=pieces)

    def _varied(self, recipe: Recipe) -> Workload:
        own = self.work.setup.recipe
        names = ("training", "memory", "optimizer", "full", "previews")
        recipe = own.model_copy(update={name: getattr(recipe, name) for name in names})
        dtype = self.device.dtype(recipe.training.precision)
        return replace(self.work, setup=replace(self.work.setup, recipe=recipe, dtype=dtype))

    def _in(self, dtype: torch.dtype) -> Setup:
        return replace(self.work.setup, dtype=dtype)

    def _captions_in(self, dtype: torch.dtype) -> tuple[Phase, Conditioning]:
        return encode_texts(self._in(dtype), self.work.found, self.device)

    def _latents_in(self, dtype: torch.dtype, pieces: Pieces) -> Phase:
        shape = replace(self.work.largest_image, count=min(IMAGES, self.work.images or IMAGES))
        return encode_images(self._in(dtype), self.work.found, self.device, shape, pieces)

    def _training_of(self, variant: _Variant) -> Training:
        setup = variant.setup
        assembled = assemble(setup, self.work.found, self.device)
        return Training(setup, assembled, self._captions(setup.dtype)[1], self.device)

    def _previewed(self, work: Workload, gone: Away) -> Phase:
        """The preview that takes most; where blocks are recomputed or streamed matters to autocast's copies alone."""
        recipe, variant = work.setup.recipe, _Variant.of(work.setup)
        own = variant, recipe.memory.autoencoder
        if not self._training(variant).assembled.autocast:
            return self._preview(*own, False, (), 0.0)
        return self._preview(*own, recipe.training.checkpoint_blocks, *gone.recomputed)

    def _preview_of(
        self, variant: _Variant, pieces: Pieces, policy: Policy, streamed: tuple[int, ...], ahead: float
    ) -> Phase:
        training, denoiser = self._training(variant), self._denoiser(variant.setup.dtype)

        def painted(request: Request) -> Phase:
            def followed(policy: Policy, of_ahead: bool) -> Followed:
                return training.follow_preview(
                    request, pieces, denoiser=denoiser, recomputed=policy, ahead=of_ahead
                )

            own, again, places, _ = _ways(followed, training.assembled, policy, streamed, ahead)
            return training.preview(request.steps or 1, own, again, places)

        return max(map(painted, self.work.largest_previews), key=lambda phase: phase.peak.total)

    def _denoiser_in(self, dtype: torch.dtype) -> Parts:
        """The whole denoiser, as it is loaded, without values."""
        setup = self._in(dtype)
        parts = Parts(info=setup.info)
        give(parts, "denoiser", load_part(setup, self.work.found, "denoiser", self.device))
        with_storage(parts, {})
        return parts


def _ways(
    follow: Callable[[Policy, bool], Followed],
    assembled: Assembled,
    policy: Policy,
    streamed: tuple[int, ...],
    ahead: float,
) -> tuple[Followed, Followed | None, Collection[int], float]:
    """How most blocks do it, how those that are recomputed do, at which places these are, and their share of all.

    What is streamed and trained is recomputed, whatever `policy` says; `ahead`: the share of layers ahead that is.
    """
    count = len(assembled.block_sizes)
    places: Collection[int] = {*streamed, *whole(range(count), policy)}
    share = len(places) / max(1, count)
    if len(places) == count:
        return _with_ahead(follow, assembled, True, ahead), None, (), share
    if assembled.left_out:  # of the blocks that one stands for, some may be recomputed
        own = _with_ahead(follow, assembled, "mlp" if policy == "mlp" else False, ahead)
    else:
        own, places = _with_ahead(follow, assembled, policy, ahead), streamed
    again = _with_ahead(follow, assembled, True, ahead) if places else None
    return own, again, places, share


def _with_ahead(
    follow: Callable[[Policy, bool], Followed], assembled: Assembled, policy: Policy, ahead: float
) -> Followed:
    """The same where a share of the layers ahead is recomputed too."""
    own = follow(policy, False)
    if not (ahead and assembled.autocast):  # beside its casts such a layer keeps next to nothing
        return own
    return own.towards(follow(policy, True), ahead)


def _tokens(conditioning: Conditioning) -> int:
    """Of a text, as the denoiser gets them beside those of its image."""
    return max(
        (tensor.shape[1] for tensor in conditioning.tensors.values() if tensor.ndim == SEQUENCE), default=0
    )


def _narrowing(training: Training) -> Phase:
    """Weights in few bits are loaded in full first, in the machine's memory."""
    peak = Bytes({**training.resident, "trained": 0, "optimizer": 0, "denoiser": training.assembled.loaded})
    return Phase(name="loading", what="denoiser", moments=at_once(peak), work=Work())
