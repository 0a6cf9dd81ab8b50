"""Before the loop: latents, captions and preview prompts are encoded, each encoder loaded only while it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from velatura.data.cache import CachedLatents, CachedText
from velatura.data.fill import fill_latents, fill_text, texts_of
from velatura.data.views import views_of
from velatura.events import Events
from velatura.interfaces import Conditioning, PartName, Parts
from velatura.placement.quantised import quantise_blocks
from velatura.sampling.painter import request_texts
from velatura.training.dataset import cache_folder
from velatura.training.previews import PlannedPreview, plan_previews
from velatura.training.setup import Setup


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Caches, previews, and the parts that are loaded already and stay so."""

    latents: CachedLatents | None
    text: CachedText | None
    previews: tuple[PlannedPreview, ...]
    parts: Parts


def prepare(setup: Setup, events: Events) -> Prepared:
    """Fill the caches; what is in them already is not encoded again, and then no encoder is loaded for it."""
    parts = Parts(info=setup.info)
    folder = cache_folder(setup.recipe)
    text = _text(setup, parts, folder, events) if setup.caches_text else None
    if setup.conditioned and text is None:
        load_part(setup, parts, "text_encoders", events)
    requests = plan_previews(setup.recipe.previews, setup.info, size=setup.preview_size)
    previews = tuple(
        PlannedPreview(
            request=request,
            conditioning=None
            if text is None
            else Conditioning.join([text.of(t) for t in request_texts(request)]),
        )
        for request in requests
    )
    latents = _latents(setup, parts, folder, events) if setup.caches_latents else None
    if "autoencoder" in setup.stays_loaded:
        load_part(setup, parts, "autoencoder", events)
    return Prepared(latents=latents, text=text, previews=previews, parts=parts)


def load_part(setup: Setup, parts: Parts, name: PartName, events: Events) -> None:
    """Load one part into `parts`, unless it is there."""
    if parts.modules(name):
        return
    events.notice(f"loading the {name.replace('_', ' ')}")
    in_8_bits = name == "denoiser" and setup.recipe.memory.weights == "fp8"
    device = torch.device("cpu") if in_8_bits else setup.device  # it is made small before the device sees it
    loaded = setup.family.load(setup.files, [name], device=device, dtype=setup.dtype, seed=setup.recipe.seed)
    if in_8_bits and loaded.denoiser is not None:
        count = quantise_blocks(setup.family.blocks(loaded.denoiser))
        loaded.denoiser.to(setup.device)
        events.notice(f"{count} linear layers are held in fp8")
    if name == "text_encoders":
        parts.text_encoders, parts.tokenizers = loaded.text_encoders, loaded.tokenizers
    elif name == "autoencoder":
        parts.autoencoder = loaded.autoencoder
    else:
        parts.denoiser = loaded.denoiser


def _text(setup: Setup, parts: Parts, folder: Path, events: Events) -> CachedText:
    tag = f"{getattr(setup.recipe.model, 'text_length', None)}"
    cache = CachedText(folder, setup.info, events, computed=setup.dtype, tag=tag)
    requests = plan_previews(setup.recipe.previews, setup.info, size=setup.preview_size)
    wanted = [text for request in requests for text in request_texts(request)]
    entries = (*setup.dataset.entries, *setup.dataset.held_out)
    texts = texts_of(entries, setup.caption_dropout, wanted)
    if cache.missing(texts):
        load_part(setup, parts, "text_encoders", events)
        _remark_cut_captions(setup, parts, texts, events)
        fill_text(texts, setup.family, parts, cache, events)
        parts.text_encoders = parts.tokenizers = None  # released before the denoiser comes
        _empty_cache(setup.device)
    return cache


def _latents(setup: Setup, parts: Parts, folder: Path, events: Events) -> CachedLatents:
    cache = CachedLatents(folder, setup.info, events, computed=setup.dtype)
    entries = (*setup.dataset.entries, *setup.dataset.held_out)
    if cache.missing(views_of(entries)):
        load_part(setup, parts, "autoencoder", events)
        fill_latents(entries, setup.family, parts, cache, events)
        if "autoencoder" not in setup.stays_loaded:
            parts.autoencoder = None
            _empty_cache(setup.device)
    return cache


def _remark_cut_captions(setup: Setup, parts: Parts, texts: list[str], events: Events) -> None:
    """Captions longer than every encoder reads lose their end; say which."""
    cut = []
    for text in texts:
        counts = setup.family.token_counts(parts, text)
        if all(count > most for count, most in counts):
            cut.append(f"'{text[:60]}…' ({counts[-1][0]} tokens, {counts[-1][1]} are read)")
    if cut:
        more = f" and {len(cut) - 3} more" if len(cut) > 3 else ""
        events.warn(
            f"{len(cut)} captions are longer than the model reads and are cut: {'; '.join(cut[:3])}{more}"
        )


def _empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
