"""What painting holds in memory, phase by phase: its real code, with tensors that have no values."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, cached_property, reduce

import torch

from velatura.adapters.files import read_adapter
from velatura.adapters.merging import put_on_part
from velatura.families.latent_family import LatentFamily
from velatura.families.outline import outline
from velatura.interfaces import Conditioning, PartName, Parts, Pieces
from velatura.placement.pieces.sliced import can_be_sliced
from velatura.placement.precision.quantised import Weights
from velatura.planning.assembly import Assembled, blank_tokenizers, give, sketched_in, thinned, with_storage
from velatura.planning.away import streamed_away, without
from velatura.planning.devices import Device
from velatura.planning.encoding import encode_with, followed
from velatura.planning.marks import marked
from velatura.planning.phases import Phase, at_once
from velatura.planning.repeats import whole
from velatura.planning.replay import CPU, VALUELESS
from velatura.planning.sizes import PROGRAM_WITH_CUDA, occupied
from velatura.planning.steering import steered
from velatura.planning.tracking import Bytes, Tracker
from velatura.sampling.painter import paint, request_texts
from velatura.sampling.placing import Job, Placement


class Painting:
    """The phases of one job on one device; what several placements have in common is followed once."""

    def __init__(self, job: Job, device: Device) -> None:
        assert isinstance(job.held.family, LatentFamily)
        self.job = job
        self.device = device
        self.family = job.held.family
        self.found = outline(self.family, job.held.files, present=True)
        self._loras = [read_adapter(file, dtype=job.held.dtype) for file in job.loras]
        self._denoiser = cache(self._denoiser_of)
        self._painted = cache(self._painted_of)
        self._decoded = cache(self._decoded_of)
        self._started = cache(self._started_of)

    def needed(self, placement: Placement) -> int:
        """Bytes of the device's memory that the whole job takes."""
        return occupied(self.device, self.highest(placement).peak.total)

    def needed_of_host(self, placement: Placement) -> int:
        """Bytes of the machine's own memory that the job takes beside a GPU's."""
        denoiser = self._denoiser(placement.weights)
        streamed = streamed_away(denoiser, placement.streamed).host
        first_here = placement.streamed or placement.weights != "full"
        loaded = max(streamed, denoiser.loaded) if first_here else 0
        encoders = self._text[0].peak["text encoders"] if placement.text_encoders == "cpu" else 0
        return PROGRAM_WITH_CUDA + (max(loaded, encoders) if placement.turns else loaded + encoders)

    def fits(self, placement: Placement, budget: int) -> bool:
        """Whether so many bytes of the device are enough, and the machine's memory too, where it is known."""
        if self.needed(placement) > budget:
            return False
        return self.device.host is None or self.needed_of_host(placement) <= self.device.host

    def highest(self, placement: Placement) -> Phase:
        """The phase that needs most."""
        return max(self.phases(placement), key=lambda phase: phase.peak.total)

    def phases(self, placement: Placement) -> list[Phase]:
        """In order of time; each with the parts that are loaded beside the one at work."""
        painted = self._painted(placement.weights)
        decoded = self._decoded(placement.autoencoder)
        gone = streamed_away(self._denoiser(placement.weights), placement.streamed)
        painted = without(painted, gone)
        if self.device.kind == "cpu":  # what is streamed is in the same memory
            painted = _beside(painted, Bytes(denoiser=gone.host))
        denoiser = Bytes(denoiser=painted.peak["denoiser"])
        autoencoder = Bytes(autoencoder=decoded.peak["autoencoder"])
        elsewhere = placement.text_encoders == "cpu" and self.device.kind != "cpu"
        stay = Bytes({"text encoders": self._text[0].peak["text encoders"]})
        if elsewhere or placement.turns:
            stay = Bytes()
        # a LoRA is put on the denoiser at once, where there is room for all
        early = denoiser if self._loras and not placement.turns else Bytes()
        phases = [] if elsewhere else [_beside(self._text[0], early)]
        if self.job.changes_picture:
            phases.append(_beside(self._started(placement.autoencoder), early, stay))
        there = autoencoder if self.job.changes_picture or self.job.count > 1 else Bytes()
        if self.device.kind == "cpu" and placement.weights != "full":
            phases.append(_beside(self._loading(placement.weights), stay, there))
        phases.append(_beside(painted, stay, there))
        phases.append(_beside(decoded, stay, denoiser))
        return phases

    @property
    def in_pieces(self) -> bool:
        """Whether the autoencoder can be run in strips and tiles."""
        return can_be_sliced(self._sketched("autoencoder").autoencoder)

    @cached_property
    def _text(self) -> tuple[Phase, Conditioning]:
        """The prompts through the text encoders, and what they become."""
        parts = self._sketched("text_encoders")
        parts.tokenizers = blank_tokenizers(self.family, self.found)
        count = len(request_texts(self.job.request))
        done, conditioning = encode_with(self.family, parts, self.device, self.job.held.dtype, count)
        with VALUELESS:
            conditioning = conditioning.to(CPU, self.job.held.dtype)
        return Phase(name="prompt", what="", moments=done.moments, work=done.work), conditioning

    def _loading(self, weights: Weights) -> Phase:
        """Weights in few bits are loaded in full first, in the machine's memory."""
        peak = Bytes(denoiser=self._denoiser(weights).loaded)
        return Phase(name="loading", what="denoiser", moments=at_once(peak), work=self._text[0].work)

    def _painted_of(self, weights: Weights) -> Phase:
        """One step, and what all steps wait with."""
        assembled, request = self._denoiser(weights), self.job.request
        parts, conditioning = assembled.parts, self._text[1]
        assert parts.denoiser is not None
        blocks = list(self.family.blocks(parts.denoiser))
        with followed(parts, self.device) as tracker, marked(tracker, blocks):
            paint(self.family, parts, replace(request, steps=1), conditioning, device=CPU)
        done = whole(tracker.segments, assembled.left_out, assembled.more)
        painted = Phase(name="painting", what=self._size, moments=done.moments, work=done.work)
        return painted.holding(lambda held: held.plus({"activations": self._steered}))

    @cached_property
    def _steered(self) -> int:
        """Bytes of what the denoiser computes of all times before the first of them."""
        request, conditioning, parts = self.job.request, self._text[1], self._sketched("denoiser")
        with_storage(parts, {})
        return steered(self.family, parts, request, conditioning)

    def _decoded_of(self, pieces: Pieces) -> Phase:
        """One picture of a batch of latents through the autoencoder."""
        info, request = self.job.held.parts.info, self.job.request
        assert request.width
        assert request.height
        edges = request.height // info.latent_scale, request.width // info.latent_scale
        parts = self._autoencoder(pieces)
        with followed(parts, self.device) as tracker:
            latents = torch.zeros(request.batch, info.latent_channels, *edges)
            self.family.decode_latents(parts, latents[:1])
        return _phase("decoding", self._size, tracker)

    def _started_of(self, pieces: Pieces) -> Phase:
        """The picture that painting starts from, through the autoencoder."""
        request = self.job.request
        assert request.width
        assert request.height
        parts = self._autoencoder(pieces)
        with followed(parts, self.device) as tracker:
            self.family.encode_image(parts, torch.zeros(1, 3, request.height, request.width))
        return _phase("encoding", self._size, tracker)

    @property
    def _size(self) -> str:
        request = self.job.request
        return f"{request.width}x{request.height} x {request.batch}"

    def _denoiser_of(self, weights: Weights) -> Assembled:
        split = self.job.held.attention.split
        return thinned(self.family, self._sketched("denoiser"), weights=weights, split_attention=split)

    def _autoencoder(self, pieces: Pieces) -> Parts:
        parts = self._sketched("autoencoder")
        parts.pieces = pieces
        with_storage(parts, {})
        return parts

    def _sketched(self, name: PartName) -> Parts:
        """One part on the meta device with its LoRAs, as `HeldParts` loads it."""
        parts = Parts(info=self.job.held.parts.info)
        keep_fp8 = name == "text_encoders" and self.device.kind != "mps"
        give(parts, name, sketched_in(self.family, self.found, name, self.job.held.dtype, keep_fp8=keep_fp8))
        for lora in self._loras:
            put_on_part(parts, name, lora)
        return parts


def _phase(name: str, what: str, tracker: Tracker) -> Phase:
    """Of one that is followed in one go."""
    (segment,) = tracker.segments
    return Phase(name=name, what=what, moments=at_once(segment.peak), work=segment.work)


def _beside(phase: Phase, *others: Bytes) -> Phase:
    """A phase with what else is loaded."""
    more = reduce(Bytes.plus, others)
    return phase.holding(lambda held: held.plus(more))
