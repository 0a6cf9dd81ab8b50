"""A family's listing of its parts: which networks they are and where files have them. And what headers say of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from velatura.checkpoints.detect import contents
from velatura.checkpoints.fingerprint import fingerprint
from velatura.checkpoints.opening import open_checkpoint
from velatura.families.configs import scheduler_config
from velatura.families.locate import part_path, weights_identity
from velatura.families.network import Place
from velatura.families.text import TextPlace, encoder_paths
from velatura.families.tokenizers import CLASSES, TokenizerPlace, tokenizers_fingerprint
from velatura.interfaces import PARTS, ModelFiles, PartName


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The parts of a family, as diffusers folders and single files have them."""

    pipeline: str  # the class in model_index.json
    denoiser: Place
    autoencoder: Place
    text_encoders: tuple[TextPlace, ...]
    hub_example: str  # a hub id that has the tokenizers, for messages
    absent: tuple[str, ...] = ()  # parts that the pipeline's class knows and we do without

    @property
    def tokenizers(self) -> tuple[TokenizerPlace, ...]:
        """One per text encoder."""
        return tuple(
            TokenizerPlace(kind=place.network.tokenizer, subfolder=place.tokenizer_subfolder)
            for place in self.text_encoders
        )

    def places(self, part: PartName) -> tuple[Place, ...]:
        """The networks of one part."""
        if part == "text_encoders":
            return self.text_encoders
        return (self.denoiser if part == "denoiser" else self.autoencoder,)

    def paths(self, files: ModelFiles, part: PartName) -> list[Path]:
        """Where the networks of one part are, in the order of `places`. Raises ModelError."""
        if part == "text_encoders":
            return encoder_paths(files, self.text_encoders)
        own = files.denoiser if part == "denoiser" else files.autoencoder
        return [part_path(files, own, place.subfolder, place.network.what) for place in self.places(part)]

    def counts(self, files: ModelFiles) -> dict[PartName, int]:
        """How many numbers the weights of each part are. Raises ModelError."""
        return {
            part: sum(
                place.network.count(path)
                for place, path in zip(self.places(part), self.paths(files, part), strict=True)
            )
            for part in PARTS
        }

    def whole(self, files: ModelFiles) -> ModelFiles:
        """A file given as denoiser may hold the other parts too: those that are not given come from it."""
        if files.model is not None or files.denoiser is None or not (files.base / files.denoiser).is_file():
            return files
        others = {self.autoencoder.network.kind, *(place.network.kind for place in self.text_encoders)}
        found = contents(open_checkpoint(files.base / files.denoiser))
        return replace(files, model=files.denoiser) if others & {each.kind for each in found} else files

    def index(self, scheduler: str) -> dict[str, Any]:
        """`model_index.json`: the pipeline's class, and [library, class] of each part."""
        networks = {
            place.subfolder: [place.network.library, place.network.model.__name__]
            for part in PARTS
            for place in self.places(part)
        }
        tokenizers = {place.subfolder: ["transformers", CLASSES[place.kind]] for place in self.tokenizers}
        absent = {name: [None, None] for name in self.absent}
        other = {"_class_name": self.pipeline, "scheduler": ["diffusers", scheduler]}
        return {**networks, **tokenizers, **absent, **other}


@dataclass(frozen=True, kw_only=True)
class Headers:
    """What configs and headers say of a model, before a weight is read."""

    denoiser: Mapping[str, Any]  # its config
    latent_channels: int
    latent_scale: int  # pixels per latent pixel
    text_widths: tuple[int, ...]
    scheduler: Mapping[str, Any] | None  # its config; None for single files
    fingerprints: Mapping[str, str]
    settings: str  # as `ModelInfo.settings`


def read_headers(listing: Listing, files: ModelFiles, *options: object) -> Headers:
    """Read the headers of all parts. `options` of the family are part of its settings. Raises ModelError."""
    files = listing.whole(files)

    def config(part: PartName) -> dict[str, Any]:
        (place,), (path,) = listing.places(part), listing.paths(files, part)
        return place.network.config(path)

    denoiser, autoencoder = config("denoiser"), config("autoencoder")
    texts = zip(listing.text_encoders, listing.paths(files, "text_encoders"), strict=True)
    return Headers(
        denoiser=denoiser,
        latent_channels=int(autoencoder["latent_channels"]),
        latent_scale=2 ** (len(autoencoder["block_out_channels"]) - 1),
        text_widths=tuple(place.network.width(path) for place, path in texts),
        scheduler=scheduler_config(files),
        fingerprints=_fingerprints(listing, files),
        settings=_settings(files, options),
    )


def _fingerprints(listing: Listing, files: ModelFiles) -> dict[str, str]:
    """Identities of the parts' weights and configs; of those that start from scratch, their configs alone."""

    def identity(part: PartName) -> str:
        places = list(zip(listing.places(part), listing.paths(files, part), strict=True))
        configs = [place.network.config(path) for place, path in places]
        if part in files.from_scratch:
            return fingerprint([], configs)
        return weights_identity([path for _, path in places], configs)

    found: dict[str, str] = {part: identity(part) for part in PARTS}
    return {**found, "tokenizers": tokenizers_fingerprint(files, listing.tokenizers)}


def _settings(files: ModelFiles, options: Sequence[object]) -> str:
    """One hash of the scheduler's config and of the family's own options."""
    said = json.dumps([scheduler_config(files), options], sort_keys=True)
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
