"""Latents and text embeddings on disk, addressed by everything that they depend on.

A key is a hash of the image's bytes, its bucket, flip, crop and background, the way it is scaled, the autoencoder's
fingerprint and both dtypes; or of the text, the encoders' and tokenizers' fingerprints, and the dtype. So a
changed image, caption, resolution or model can never meet an old entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from velatura.data.batching.buckets import Bucket
from velatura.data.caches.blocks import Group
from velatura.data.caches.cache_place import digest, fingerprint
from velatura.data.caches.groups import KeptGroups
from velatura.data.caches.memory import MEMORY
from velatura.data.caches.shard_writer import ShardWriter
from velatura.data.caches.shards import ShardStore
from velatura.data.images import TRANSFORM
from velatura.data.views import View
from velatura.errors import NumericError, StorageError
from velatura.events import Events
from velatura.interfaces import Conditioning, ModelInfo, Posterior

STORED = torch.float32  # latents, whatever dtype the autoencoder runs in
Holds = Literal["mean", "sample"]


class CachedLatents:
    """Scaled latents of views: the posterior's mean and, where a fresh `sample` per use is wanted, its deviation.

    `computed` is the dtype in which the autoencoder runs, `stored` that of the files; entries are kept in
    memory up to `memory_limit` bytes. Raises ModelError when the autoencoder has no fingerprint.
    """

    def __init__(
        self,
        folder: Path,
        info: ModelInfo,
        events: Events,
        *,
        computed: torch.dtype,
        stored: torch.dtype = STORED,
        holds: Holds = "mean",
        memory_limit: int = MEMORY,
    ) -> None:
        more = [] if holds == "mean" else [holds]  # the default leaves no trace, so that old caches stay good
        self._identity = digest(
            TRANSFORM, fingerprint(info, "autoencoder"), str(computed), str(stored), *more
        )
        self._info = info
        self.holds = holds
        self.stored = stored
        self.store = ShardStore(folder / "latents" / self._identity[:16], events)
        self._groups = KeptGroups(self.store, memory_limit)

    def shape(self, bucket: Bucket) -> tuple[int, int, int]:
        """[C, H, W] of the latents of a bucket."""
        scale = self._info.latent_scale
        return self._info.latent_channels, bucket[1] // scale, bucket[0] // scale

    def size(self, views: Iterable[View]) -> int:
        """Bytes that the latents of these views take."""
        tensors = 1 if self.holds == "mean" else 2
        values = sum(torch.Size(self.shape(view.bucket)).numel() for view in views)
        return values * tensors * self.stored.itemsize

    def missing(self, views: Sequence[View]) -> list[View]:
        """The views that must be encoded. Entries that fit in memory are read, checked and kept meanwhile."""
        keys = {self._key(view): view for view in views}
        missing = self._groups.missing(keys)
        return [view for key, view in keys.items() if key in missing]

    def put(self, writer: ShardWriter, view: View, found: Posterior) -> None:
        """Hand a view's latents to a writer of this cache. Raises NumericError if they are not finite."""
        group = {name: self._sound(view, tensor) for name, tensor in _as_group(found).items()}
        key = self._key(view)
        writer.put(key, group)
        self._groups.offer(key, group)

    def of(self, view: View) -> Posterior:
        """The view's latents in the stored dtype. Raises StorageError when they are not there or damaged."""
        room = self.empty([view])
        self.read_into(room, 0, view)
        return Posterior(mean=room.mean[0], deviation=None if room.deviation is None else room.deviation[0])

    def empty(self, views: Sequence[View]) -> Posterior:
        """Room for the latents of views of one bucket, `[B, C, H, W]`, not filled yet. Raises StorageError as `of`."""
        room = self._groups.room(self._key(views[0]), len(views))
        if room is None:
            raise _lost_latents(views[0])
        return _from_group(room)

    def read_into(self, room: Posterior, position: int, view: View) -> None:
        """Fill one place of `room`. Raises StorageError as `of`."""
        place = {name: tensor[position] for name, tensor in _as_group(room).items()}
        fits = tuple(room.mean.shape[1:]) == self.shape(view.bucket)
        if not (fits and self._groups.read_into(self._key(view), place, view.item.name)):
            raise _lost_latents(view)

    def keys(self, views: Iterable[View]) -> set[str]:
        """Under which the store holds these views, or would."""
        return {self._key(view) for view in views}

    def _key(self, view: View) -> str:
        return digest(self._identity, *view.key)

    def _sound(self, view: View, latents: Tensor) -> Tensor:
        if tuple(latents.shape) != self.shape(view.bucket):
            raise ValueError(
                f"latents of {view.item.name} are {tuple(latents.shape)}, not {self.shape(view.bucket)}"
            )
        stored = latents.to(self.stored).cpu().contiguous()
        if not torch.isfinite(stored).all():
            raise NumericError(
                f"the autoencoder's latents of {view.item.name} are not finite in {self.stored}. "
                "fp16 overflows in many autoencoders: use bf16 or fp32."
            )
        return stored


def _as_group(found: Posterior) -> Group:
    group: Group = {"latents": found.mean}
    return group if found.deviation is None else {**group, "deviation": found.deviation}


def _from_group(group: Group) -> Posterior:
    return Posterior(mean=group["latents"], deviation=group.get("deviation"))


def _lost_latents(view: View) -> StorageError:
    return StorageError(
        f"the cached latents of {view.item.name} at {view.bucket[0]}x{view.bucket[1]} are missing or damaged. "
        "Start again with --resume: they are made anew."
    )


class CachedText:
    """The conditioning of whole captions, B = 1, as `Family.encode` gives it.

    `computed` is the dtype in which the encoders run; `tag` names what else decides about the result, such as
    the text length. Raises ModelError when the encoders have no fingerprint.
    """

    def __init__(
        self,
        folder: Path,
        info: ModelInfo,
        events: Events,
        *,
        computed: torch.dtype,
        tag: str = "",
        memory_limit: int = MEMORY,
    ) -> None:
        encoders, tokenizers = fingerprint(info, "text_encoders"), info.fingerprints.get("tokenizers", "")
        self._identity = digest(info.family, info.variant, encoders, tokenizers, tag, str(computed))
        self.computed = computed
        self.store = ShardStore(folder / "text" / self._identity[:16], events)
        self._groups = KeptGroups(self.store, memory_limit)

    def missing(self, texts: Iterable[str]) -> list[str]:
        """The texts that must be encoded, each once. Those that fit in memory are read, checked and kept."""
        keys = {self._key(text): text for text in texts}
        missing = self._groups.missing(keys)
        return [text for key, text in keys.items() if key in missing]

    def put(self, writer: ShardWriter, text: str, conditioning: Conditioning) -> int:
        """Hand a text's conditioning, B = 1, to a writer of this cache; its bytes. Raises NumericError."""
        conditioning = conditioning.to(torch.device("cpu"), self.computed)  # a CPU may have computed in more
        group: Group = {name: tensor.contiguous() for name, tensor in conditioning.tensors.items()}
        broken = [name for name, tensor in group.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise NumericError(
                f"the text encoders give values that are not finite ({', '.join(broken)}) for '{text[:80]}'. "
                "fp16 overflows in T5: use bf16 or fp32."
            )
        key = self._key(text)
        writer.put(key, group)
        self._groups.offer(key, group)
        return sum(tensor.nbytes for tensor in group.values())

    def of(self, text: str) -> Conditioning:
        """The conditioning of a text, B = 1. Raises StorageError when it is not there or damaged."""
        found = self._groups.get(self._key(text))
        if found is None:
            raise _lost_text(text)
        return Conditioning(tensors=found)

    def empty(self, texts: Sequence[str]) -> Conditioning:
        """Room for the conditioning of these texts, B = len(texts), not filled yet. Raises StorageError as `of`."""
        room = self._groups.room(self._key(texts[0]), len(texts))
        if room is None:
            raise _lost_text(texts[0])
        return Conditioning(tensors={name: tensor.flatten(0, 1) for name, tensor in room.items()})

    def read_into(self, room: Conditioning, position: int, text: str) -> None:
        """Fill one place of `room`. Raises StorageError as `of`, ValueError where it is of another form."""
        place = {name: tensor[position : position + 1] for name, tensor in room.tensors.items()}
        if not self._groups.read_into(self._key(text), place, f"the embedding of '{text[:80]}'"):
            raise _lost_text(text)

    def keys(self, texts: Iterable[str]) -> set[str]:
        """Under which the store holds these texts, or would."""
        return {self._key(text) for text in texts}

    def _key(self, text: str) -> str:
        return digest(self._identity, text)


def _lost_text(text: str) -> StorageError:
    return StorageError(
        f"the cached text embedding of '{text[:80]}' is missing or damaged. "
        "Start again with --resume: it is made anew."
    )
