"""Captions and images that are encoded ahead of the training: the real encoders, with tensors that have no values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from velatura.families.autoencoder import encodes_alone
from velatura.families.outline import Outline
from velatura.interfaces import Conditioning, Family, Parts, Pieces, Prompt
from velatura.placement.precision.emulated import compute_in_float32, emulates
from velatura.planning.assembly import blank_tokenizers, give, latent, load_part, weights, with_storage
from velatura.planning.devices import Device
from velatura.planning.marks import marked
from velatura.planning.phases import Phase, Shape, at_once
from velatura.planning.repeats import Whole, prune, runs_of, stacked, whole
from velatura.planning.replay import VALUELESS
from velatura.planning.tracking import Bytes, Tracker, Work
from velatura.training.setup import Setup

TEXTS = 8  # at once, when captions are encoded ahead
IMAGES = 4  # at once, when images are encoded ahead


def encode_texts(
    setup: Setup, found: Outline, device: Device, count: int = TEXTS
) -> tuple[Phase, Conditioning]:
    """Captions through the text encoders, and what they become: B = 1, without values."""
    parts = Parts(info=setup.info)
    give(parts, "text_encoders", load_part(setup, found, "text_encoders", device))
    parts.tokenizers = blank_tokenizers(latent(setup), found)
    frozen = "text_encoders" not in setup.trained
    done, conditioning = encode_with(setup.family, parts, device, setup.dtype, count, frozen=frozen)
    with VALUELESS:
        conditioning = conditioning.to(torch.device("cpu"), setup.dtype)
    return Phase(
        name="captions", what=f"{count} at once", moments=done.moments, work=done.work
    ), conditioning.select([0])


def encode_with(
    family: Family, parts: Parts, device: Device, dtype: torch.dtype, count: int, *, frozen: bool = True
) -> tuple[Whole, Conditioning]:
    """`count` texts through text encoders of the meta device in `dtype`, with blocks left out; without values.

    Those that are `frozen` compute in float32 where a CPU has no narrower products (see `precision.emulated`).
    """
    if frozen and device.kind == "cpu" and emulates(dtype, bf16=device.bf16):
        compute_in_float32(parts.text_encoders or ())
    blocks, left_out = _pruned(parts.text_encoders or ())
    more = sum(times * _size(blocks[place]) for place, times in left_out.items())
    with_storage(parts, {})
    with followed(parts, device) as tracker, marked(tracker, blocks):
        conditioning = family.encode(parts, [Prompt(text="a")] * count)
    return whole(tracker.segments, left_out, Bytes({"text encoders": more})), conditioning


def encode_images(setup: Setup, found: Outline, device: Device, shape: Shape, pieces: Pieces) -> Phase:
    """Images through the autoencoder, ahead of the training."""
    parts = Parts(info=setup.info, pieces=pieces)
    give(parts, "autoencoder", load_part(setup, found, "autoencoder", device))
    with_storage(parts, {})
    with VALUELESS, torch.no_grad():
        batch = torch.zeros(shape.count, 3, shape.height, shape.width)
        # strips take long to follow
        together = 1 if encodes_alone(parts.autoencoder, batch, pieces) else shape.count
    with followed(parts, device) as tracker:
        images = torch.zeros(together, 3, shape.height, shape.width)
        if setup.recipe.memory.cached_latents == "mean":
            latents = setup.family.encode_image(parts, images)
        else:
            latents = setup.family.posterior(parts, images).mean
    segment, work = tracker.segments[-1], Work()
    work.add(segment.work, shape.count / together)
    # beside one image all others are held, at the end with the means and variances of those before
    each = images[0].numel() * sum(dtype.itemsize for dtype in {torch.float32, setup.dtype})
    each += 2 * latents[0].numel() * setup.dtype.itemsize
    peak = segment.peak.plus({"activations": (shape.count - together) * each})
    return Phase(name="latents", what=str(shape), moments=at_once(peak), work=work)


def _pruned(modules: Sequence[nn.Module]) -> tuple[list[nn.Module], dict[int, int]]:
    """The blocks of all encoders that are left, and which of them stand for others: see `prune`."""
    blocks: list[nn.Module] = []
    left_out: dict[int, int] = {}
    for module in modules:
        whole_stack = stacked(module)
        times = prune(module, whole_stack, runs_of(whole_stack))
        left_out |= {len(blocks) + place: count for place, count in times.items()}
        blocks += stacked(module)
    return blocks, left_out


def _size(block: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*block.parameters(), *block.buffers()))


@contextmanager
def followed(parts: Parts, device: Device) -> Iterator[Tracker]:
    """Follow what is done with parts that have no values; no gradients are made."""
    tracker = Tracker(device)
    for kind, tensors in weights(parts).items():
        tracker.know(tensors, kind)
    with VALUELESS, torch.no_grad(), tracker:
        yield tracker
