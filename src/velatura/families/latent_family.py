"""What all families share: a denoiser of an autoencoder's latents, steered by text encoders, listed in `listing`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from velatura.draws import Draw
from velatura.errors import ModelError
from velatura.families.autoencoder import decode_latents, encode_image, posterior
from velatura.families.configs import DEFAULTS, SCHEDULER, own_defaults
from velatura.families.folder import SavedModel, save_folder
from velatura.families.listing import Headers, Listing
from velatura.families.network import Within
from velatura.families.tokenizers import (
    check_vocabulary,
    given_folders,
    load_tokenizers,
    token_count,
    token_ids,
)
from velatura.interfaces import Family, ModelFiles, ModelInfo, PartName, Parts, Posterior, Prompt

PartT = TypeVar("PartT")


class LatentFamily(Family):
    """Loading, saving, tokenizing and the autoencoder, by the family's `listing`.

    A family adds `inspect`, `described`, `encode`, `predict`, `blocks`, `targets`, `tokens` and `scheduler`.
    """

    listing: Listing

    @abstractmethod
    def described(self, found: Headers, files: ModelFiles) -> ModelInfo:
        """What headers say of a model, as `inspect` tells it. Raises ModelError for parts that do not fit."""

    @abstractmethod
    def scheduler(self, files: ModelFiles, info: ModelInfo) -> dict[str, Any]:
        """The scheduler's config that goes with a saved model, with diffusers' `_class_name`."""

    def weight_counts(self, files: ModelFiles) -> dict[PartName, int]:
        """See `Family.weight_counts`."""
        return self.listing.counts(self.listing.whole(files))

    def load(
        self,
        files: ModelFiles,
        parts: Sequence[PartName],
        *,
        device: torch.device,
        dtype: torch.dtype | None,
        seed: int = 0,
        keep_fp8: bool = False,
    ) -> Parts:
        """See `Family.load`."""
        result = Parts(info=self.inspect(files))
        files = self.listing.whole(files)

        def modules(part: PartName) -> tuple[nn.Module, ...]:
            places = zip(self.listing.places(part), self.listing.paths(files, part), strict=True)
            if part in files.from_scratch:
                return tuple(
                    place.network.from_scratch(path, device=device, seed=seed) for place, path in places
                )
            within = self._held_in_fp8(part) if keep_fp8 else None
            return tuple(
                place.network.load(path, device=device, dtype=dtype, keep_fp8=within)
                for place, path in places
            )

        if "text_encoders" in parts:
            result.tokenizers = self.tokenizers(files)
            result.text_encoders = modules("text_encoders")
            for tokenizer, module, place in zip(
                result.tokenizers, result.text_encoders, self.listing.text_encoders, strict=True
            ):
                check_vocabulary(tokenizer, module, place.network.what)
        if "autoencoder" in parts:
            (result.autoencoder,) = modules("autoencoder")
        if "denoiser" in parts:
            (result.denoiser,) = modules("denoiser")
        return result

    def _held_in_fp8(self, part: PartName) -> Within:
        """The modules of a part whose linear layers may be held in fp8."""
        everywhere: dict[PartName, Within] = {
            "text_encoders": lambda encoder: [encoder],
            "denoiser": self.blocks,
        }
        return everywhere.get(part, lambda module: [])

    def sketch(self, files: ModelFiles) -> nn.Module:
        """See `Family.sketch`."""
        (path,) = self.listing.paths(self.listing.whole(files), "denoiser")
        return self.listing.denoiser.network.sketch(path)

    def save(
        self,
        parts: Parts,
        files: ModelFiles,
        folder: Path,
        saved: Sequence[PartName],
        *,
        dtype: torch.dtype | None,
    ) -> None:
        """See `Family.save`."""
        files = self.listing.whole(files)
        modules = {
            place.subfolder: place.network.saved(module)
            for part in saved
            for place, module in zip(self.listing.places(part), parts.modules(part), strict=True)
        }
        scheduler = self.scheduler(files, parts.info)
        documents: dict[str, Mapping[str, Any]] = {
            "model_index.json": self.listing.index(scheduler["_class_name"]),
            SCHEDULER: scheduler,
        }
        if (defaults := own_defaults(files)) is not None:
            documents[DEFAULTS] = defaults
        tokenizers = given_folders(files, self.listing.tokenizers)
        save_folder(folder, SavedModel(modules=modules, documents=documents, folders=tokenizers), dtype)

    def tokenizers(self, files: ModelFiles) -> tuple[Any, ...]:
        """See `Family.tokenizers`."""
        return load_tokenizers(files, self.listing.tokenizers, self.listing.hub_example)

    def token_counts(self, parts: Parts, text: str) -> tuple[tuple[int, int], ...]:
        """See `Family.token_counts`, in the order of the listing."""
        counts = (token_count(tokenizer, text) for tokenizer in loaded(parts.tokenizers, "tokenizers"))
        return tuple(zip(counts, self.text_lengths(parts), strict=True))

    def text_lengths(self, parts: Parts) -> tuple[int, ...]:
        """Tokens that each text encoder reads."""
        tokenizers = zip(loaded(parts.tokenizers, "tokenizers"), self.listing.text_encoders, strict=True)
        return tuple(min(int(tokenizer.model_max_length), place.length) for tokenizer, place in tokenizers)

    def tokenized(self, parts: Parts, prompts: Sequence[Prompt]) -> list[tuple[Any, Tensor]]:
        """Each text encoder with the ids that it is to read, `[B, L]` on its device."""
        encoders: tuple[Any, ...] = loaded(parts.text_encoders, "text encoders")
        tokenizers = loaded(parts.tokenizers, "tokenizers")
        texts = [prompt.text for prompt in prompts]
        return [
            (encoder, token_ids(tokenizer, texts, length).to(encoder.device))
            for encoder, tokenizer, length in zip(encoders, tokenizers, self.text_lengths(parts), strict=True)
        ]

    def encode_image(self, parts: Parts, images: Tensor, draw: Draw | None = None) -> Tensor:
        """See `Family.encode_image`."""
        return encode_image(loaded(parts.autoencoder, "autoencoder"), images, draw, parts.pieces)

    def posterior(self, parts: Parts, images: Tensor) -> Posterior:
        """See `Family.posterior`."""
        return posterior(loaded(parts.autoencoder, "autoencoder"), images, parts.pieces)

    def decode_latents(self, parts: Parts, latents: Tensor) -> Tensor:
        """See `Family.decode_latents`."""
        return decode_latents(loaded(parts.autoencoder, "autoencoder"), latents, parts.pieces)


def loaded(part: PartT | None, what: str) -> PartT:
    """The part itself. Raises ModelError when it was not loaded, or was released."""
    if part is None:
        raise ModelError(f"this needs the {what}, not loaded here")
    return part
