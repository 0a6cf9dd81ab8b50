"""Before the loop: latents, captions and preview prompts are encoded, each encoder loaded only while it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from velatura.data.caches.cache import CachedLatents, CachedText
from velatura.data.caches.fill import fill_latents, fill_text
from velatura.data.caches.memory import MEMORY
from velatura.data.progress import phase
from velatura.data.text.texts import texts_of, typical_texts
from velatura.data.views import views_of
from velatura.events import Events
from velatura.families.denoiser import load_denoiser
from velatura.families.text_encoders import load_text_encoders
from velatura.interfaces import Conditioning, PartName, Parts
from velatura.sampling.painter import request_texts
from velatura.sampling.reading import remark_cuts
from velatura.sampling.request import Request
from velatura.training.dataset import cache_folder
from velatura.training.previews import PlannedPreview, lost_negatives, plan_previews
from velatura.training.rehearsal import sketch_parts
from velatura.training.setup import Setup

LOOKED_AT = 10_000  # captions whose tokens are counted: a few seconds


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Caches, previews, and the parts that are loaded already and stay so."""

    latents: CachedLatents | None
    text: CachedText | None
    previews: tuple[PlannedPreview, ...]
    parts: Parts


def prepare(setup: Setup, events: Events) -> Prepared:
    """Fill the caches; what is in them already is not encoded again, and then no encoder is loaded for it."""
    for line in setup.encoded_at_every_step():
        events.notice(line)
    parts = Parts(info=setup.info, pieces=setup.recipe.memory.autoencoder)
    requests = plan_previews(setup.recipe.previews, setup.info, size=setup.preview_size)
    remark_texts(setup, requests, events)
    text = fill_text_cache(setup, parts, events) if setup.caches_text else None
    if setup.conditioned and text is None:
        load_part(setup, parts, "text_encoders", events)
    previews = tuple(
        PlannedPreview(
            request=request,
            conditioning=None
            if text is None
            else Conditioning.join([text.of(t) for t in request_texts(request)]),
        )
        for request in requests
    )
    latents = fill_latents_cache(setup, parts, events) if setup.caches_latents else None
    if "autoencoder" in setup.stays_loaded:
        load_part(setup, parts, "autoencoder", events)
    return Prepared(latents=latents, text=text, previews=previews, parts=parts)


def load_part(setup: Setup, parts: Parts, name: PartName, events: Events) -> None:
    """Load one part into `parts`, unless it is there."""
    if parts.modules(name):
        return
    with phase(events, f"loading the {name.replace('_', ' ')}", 0):
        _load_part(setup, parts, name, events)


def _load_part(setup: Setup, parts: Parts, name: PartName, events: Events) -> None:
    family, files, seed = setup.family, setup.files, setup.recipe.seed
    placed_later = name == "denoiser" and (setup.recipe.memory.streamed > 0 or setup.sharded)
    on_cpu = name == "text_encoders" and setup.recipe.memory.text_encoders == "cpu"
    device = torch.device("cpu") if placed_later or on_cpu else setup.device
    if name == "denoiser":
        weights = setup.recipe.memory.weights
        parts.denoiser = load_denoiser(
            family, files, events, weights=weights, device=device, dtype=setup.dtype, seed=seed
        )
        return
    if name == "text_encoders":
        loaded = load_text_encoders(
            family, files, device=device, dtype=setup.dtype, frozen=name not in setup.trained, seed=seed
        )
        parts.text_encoders, parts.tokenizers = loaded.text_encoders, loaded.tokenizers
    else:
        loaded = family.load(files, [name], device=device, dtype=setup.dtype, seed=seed)
        parts.autoencoder = loaded.autoencoder


def text_cache(setup: Setup, events: Events, memory_limit: int = MEMORY) -> CachedText:
    """The cache of this run's text embeddings; what decides about them is in its keys."""
    tag = f"{getattr(setup.recipe.model, 'text_length', None)}"
    return CachedText(
        cache_folder(setup.recipe),
        setup.info,
        events,
        computed=setup.dtype,
        tag=tag,
        memory_limit=memory_limit,
    )


def latents_cache(setup: Setup, events: Events, memory_limit: int = MEMORY) -> CachedLatents:
    """The cache of this run's latents."""
    return CachedLatents(
        cache_folder(setup.recipe),
        setup.info,
        events,
        computed=setup.dtype,
        holds=setup.recipe.memory.cached_latents,
        memory_limit=memory_limit,
    )


def texts_to_encode(setup: Setup) -> list[str]:
    """All captions of training and validation, and all prompts of the previews."""
    requests = plan_previews(setup.recipe.previews, setup.info, size=setup.preview_size)
    wanted = [text for request in requests for text in request_texts(request)]
    return texts_of(setup.dataset.everything, setup.caption_dropout, wanted)


def remark_texts(setup: Setup, requests: Sequence[Request], events: Events) -> None:
    """Tell which captions and preview prompts are longer than the text encoders read, also when all are cached."""
    for line in lost_negatives(requests):
        events.warn(line)
    if not setup.conditioned:
        return
    parts = sketch_parts(setup, ["text_encoders"])
    entries = setup.dataset.everything
    captions = typical_texts(entries, LOOKED_AT)
    if len({entry.item.name for entry in entries}) > LOOKED_AT:
        events.notice(f"of the captions, the tokens of the first {LOOKED_AT:,} were counted")
    remark_cuts(setup.family, parts, captions, events, "caption")
    prompts = {
        f"preview {number}{kind}": text
        for number, request in enumerate(requests, start=1)
        for kind, text in zip(("", ", negative"), request_texts(request), strict=False)
    }
    remark_cuts(setup.family, parts, prompts, events, "preview prompt")


def fill_text_cache(setup: Setup, parts: Parts, events: Events) -> CachedText:
    """Encode the texts that the cache lacks; the encoders are loaded for that, and released."""
    cache = text_cache(setup, events)
    texts = texts_to_encode(setup)
    share = setup.team.share
    if cache.missing(share.every_of(texts)):  # by this process; the others see to the rest
        load_part(setup, parts, "text_encoders", events)
        fill_text(texts, setup.family, parts, cache, events, share=share)
        parts.text_encoders = parts.tokenizers = None  # released before the denoiser comes
        _empty_cache(setup.device)
    setup.team.wait()
    cache.store.refresh()
    return cache


def fill_latents_cache(setup: Setup, parts: Parts, events: Events) -> CachedLatents:
    """Encode the images that the cache lacks; the autoencoder is loaded for that."""
    cache = latents_cache(setup, events)
    entries = setup.dataset.everything
    share = setup.team.share
    if cache.missing(share.every_of(views_of(entries))):
        load_part(setup, parts, "autoencoder", events)
        fill_latents(entries, setup.family, parts, cache, events, share=share)
        if "autoencoder" not in setup.stays_loaded:
            parts.autoencoder = None
            _empty_cache(setup.device)
    setup.team.wait()
    cache.store.refresh()
    return cache


def _empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
