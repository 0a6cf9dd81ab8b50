"""The shared types between rooms: what a family, an objective and a batch are. No behaviour lives here.

Shape legend: B items, C latent channels, H x W latent or image size, L tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from velatura.draws import Draw
from velatura.errors import ModelError

Prediction = Literal["velocity", "noise", "v"]
PartName = Literal["denoiser", "autoencoder", "text_encoders"]
Pieces = Literal["auto", "whole", "sliced", "tiled"]  # in which an autoencoder is run
PARTS: tuple[PartName, ...] = ("text_encoders", "autoencoder", "denoiser")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the user asks for, before any encoder has seen it."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What steers the denoiser besides latents and t: tensors named by the family, each with a leading B."""

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return next(iter(self.tensors.values())).shape[0]

    def map(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        """The same names with every tensor changed."""
        return Conditioning(tensors={name: change(tensor) for name, tensor in self.tensors.items()})

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditioning:
        """Move all; floating tensors take `dtype`."""
        return self.map(lambda t: t.to(device, dtype if t.is_floating_point() else None))

    def select(self, positions: Sequence[int]) -> Conditioning:
        """The items at `positions`; no tensor of indices has to go to a device, which would wait for it."""
        return self.map(lambda t: torch.cat([t[position : position + 1] for position in positions]))

    @staticmethod
    def join(parts: Sequence[Conditioning]) -> Conditioning:
        """All items of several conditionings of equal shapes, in order."""
        names = parts[0].tensors.keys()
        return Conditioning(
            tensors={name: torch.cat([part.tensors[name] for part in parts]) for name in names}
        )


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Where each part comes from: a file, a folder or a hub id; unset parts come from `model`."""

    model: str | None = None
    denoiser: str | None = None
    autoencoder: str | None = None
    text_encoders: tuple[str, ...] = ()
    tokenizers: str | None = None
    from_scratch: tuple[PartName, ...] = ()
    base: Path = field(default_factory=Path)  # relative paths start here


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """What a model is sampled with where the user says nothing."""

    size: int  # pixels, edge of a square
    steps: int
    guidance: float = 0.0  # distilled guidance, where the model reads it
    cfg: float = 1.0  # classifier-free guidance; 1 is off


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What the headers say, before a weight is read."""

    family: str
    variant: str  # "dev", "schnell", …: for people and metadata
    architecture: str  # SAI model-spec architecture, "flux-1-dev"
    latent_channels: int
    latent_scale: int  # pixels per latent pixel, 8
    size_step: int  # image edges must be multiples of this, 16
    prediction: Prediction
    shifted: bool  # sampling times depend on the image's size
    guided: bool = False  # the denoiser has an input for distilled guidance
    defaults: SamplingDefaults
    fingerprints: Mapping[str, str]  # part -> identity of its weights, for cache keys and metadata
    settings: str = (
        ""  # identity of what else decides what the model gives: its scheduler, the family's options
    )


@dataclass(kw_only=True)
class Parts:
    """A loaded family. A part that is not loaded, or was released, is None."""

    info: ModelInfo
    denoiser: nn.Module | None = None
    autoencoder: nn.Module | None = None
    text_encoders: tuple[nn.Module, ...] | None = None
    tokenizers: tuple[Any, ...] | None = None
    pieces: Pieces = "auto"  # in which the autoencoder is run, where it is not trained

    def modules(self, part: PartName) -> tuple[nn.Module, ...]:
        """The modules of one part; empty when it is not loaded."""
        if part == "text_encoders":
            return self.text_encoders or ()
        module = self.denoiser if part == "denoiser" else self.autoencoder
        return () if module is None else (module,)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A linear layer that an adapter may sit on: `module` is its full path in the denoiser."""

    module: str
    group: str  # "attention", "mlp", "modulation", "other"
    shares: str | None = None  # layers with one name here read the same input and share the down projection
    kohya: str = ""  # the file key of the layer, or of the fused layer it is a slice of
    slice: tuple[int, int] | None = None  # rows of the fused layer that are this one


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """What an autoencoder makes of an image: scaled latents `[..., C, H, W]`, and how far a sample is from them."""

    mean: Tensor
    deviation: Tensor | None = (
        None  # standard deviation; None where only the mean is wanted, or there is none
    )

    def sample(self, draw: Draw) -> Tensor:
        """A sample of `[B, C, H, W]`, the same wherever a run draws it; the mean where there is no deviation."""
        if self.deviation is None:
            return self.mean
        noise = draw.normal("posterior", self.mean.shape[1:]).to(self.mean.device)
        return self.mean + self.deviation * noise


class Schedule(ABC):
    """Noise schedule over t in [0, 1]: 0 is the clean image, 1 the noisiest."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Weight of the clean latents at t, same shape as t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Weight of the noise at t, same shape as t."""

    @abstractmethod
    def times(self, steps: int, tokens: int) -> Tensor:
        """Sampling times, float32 `[steps + 1]`, decreasing to 0; `tokens` is the image's token count."""

    def shift(self, t: Tensor, tokens: int) -> Tensor:
        """Times moved towards noise for images of many tokens; families without such a shift leave them."""
        return t


class Family(ABC):
    """A model architecture with its parts and conventions. Latents at this interface are scaled `[B, C, H, W]`."""

    name: str
    schedule: Schedule

    @abstractmethod
    def inspect(self, files: ModelFiles) -> ModelInfo:
        """Variant and shapes from headers and configs; fingerprints, which are of whole files. Raises ModelError."""

    @abstractmethod
    def weight_counts(self, files: ModelFiles) -> Mapping[PartName, int]:
        """How many numbers the weights of each part are, from headers. Raises ModelError."""

    @abstractmethod
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
        """Load some parts, each by itself, frozen and in eval mode.

        `dtype`: of the weights; None keeps each as it is stored. On the meta device no weight is read, but all else
        happens. `seed` initialises parts made from scratch. `keep_fp8`: linear layers of text encoders and of the
        denoiser's blocks that a file has in fp8 are held so, with the same results; they cannot be trained.
        Raises ModelError and CheckpointError.
        """

    @abstractmethod
    def sketch(self, files: ModelFiles) -> nn.Module:
        """The denoiser without weights (on the meta device): its modules, shapes and names. Raises ModelError."""

    @abstractmethod
    def save(
        self,
        parts: Parts,
        files: ModelFiles,
        folder: Path,
        saved: Sequence[PartName],
        *,
        dtype: torch.dtype | None,
    ) -> None:
        """Write the parts in `saved` as a folder that `load` and diffusers read, with tokenizers and configs.

        `dtype`: of the weights in the files; None keeps that of each.
        """

    @abstractmethod
    def encode(self, parts: Parts, prompts: Sequence[Prompt]) -> Conditioning:
        """Run the text encoders; differentiable where they are trained."""

    @abstractmethod
    def tokenizers(self, files: ModelFiles) -> tuple[Any, ...]:
        """The tokenizers alone, as `token_counts` wants them in its parts. Raises ModelError where there are none."""

    @abstractmethod
    def token_counts(self, parts: Parts, text: str) -> tuple[tuple[int, int], ...]:
        """Per text encoder: tokens of `text`, and the most that it reads (more are cut off)."""

    @abstractmethod
    def encode_image(self, parts: Parts, images: Tensor, draw: Draw | None = None) -> Tensor:
        """`[B, 3, H, W]` in [-1, 1] -> scaled latents; the posterior's mean, or a sample when `draw` is given."""

    def posterior(self, parts: Parts, images: Tensor) -> Posterior:
        """Mean and deviation of the latents that `encode_image` samples. ModelError: the autoencoder has none."""
        raise ModelError(
            f"the autoencoder of {self.name} gives no deviation: set memory.cached_latents to 'mean'"
        )

    @abstractmethod
    def decode_latents(self, parts: Parts, latents: Tensor) -> Tensor:
        """Scaled latents -> `[B, 3, H, W]`, about [-1, 1], not clamped."""

    @abstractmethod
    def predict(
        self, parts: Parts, latents: Tensor, t: Tensor, conditioning: Conditioning, *, guidance: float = 1.0
    ) -> Tensor:
        """The denoiser's prediction `[B, C, H, W]` for noisy latents at t `[B]` (float32): pack, run, unpack."""

    def along(
        self, parts: Parts, conditioning: Conditioning, times: Tensor, *, guidance: float = 1.0
    ) -> Sequence[Conditioning]:
        """For each of the times `[S]`, the conditioning with all that the denoiser can compute without latents.

        For sampling: it is computed for many times at once, and `predict` at that time and guidance takes it.
        """
        return [conditioning] * len(times)

    @abstractmethod
    def blocks(self, denoiser: nn.Module) -> Sequence[nn.Module]:
        """The repeated blocks in order of execution: what is compiled, recomputed and streamed."""

    def ahead(self, denoiser: nn.Module) -> Sequence[nn.Module]:
        """Layers inside the blocks that are run outside of them, before their block, once per pass, in this order."""
        return ()

    @abstractmethod
    def attentions(self, denoiser: nn.Module) -> Sequence[Any]:
        """The layers of attention: `heads`, `inner_dim`, and `attend`, which computes them and may be replaced."""

    @abstractmethod
    def feed_forwards(self, denoiser: nn.Module) -> Sequence[tuple[nn.Module, str]]:
        """The blocks' feed-forward parts: a module, and the name of the method of it that runs the part."""

    @abstractmethod
    def targets(self, denoiser: nn.Module) -> Sequence[Target]:
        """Every linear layer that an adapter may sit on, grouped and named."""

    @abstractmethod
    def tokens(self, latents: Tensor) -> int:
        """Image tokens of latents `[B, C, H, W]`: what a resolution-dependent schedule goes by."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a micro-step eats. `conditioning` is None when prompts must be encoded now; likewise latents."""

    names: tuple[str, ...]  # items, for messages
    prompts: tuple[Prompt, ...]
    weights: Tensor  # [B]
    slots: tuple[int, ...]  # positions in the step's global batch
    latents: Tensor | None = None  # [B, C, H, W] scaled
    images: Tensor | None = None  # [B, 3, H, W] in [-1, 1]
    conditioning: Conditioning | None = None
    total: float | None = None  # of the weights in the micro-batches of all processes; None: of these alone
    idle: bool = False  # a stand-in of weight 0, where a process has no item: it counts nowhere
    companions: Mapping[str, Tensor] = field(default_factory=dict)
    # by role, [B, C, H, W] float32: reference, control (RGB in [-1, 1]), mask (1 in [0, 1]), depth, normals

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Move tensors; latents, images and companions stay float32 (they are mixed with noise in float32)."""
        return replace(
            self,
            weights=self.weights.to(device),
            latents=None if self.latents is None else self.latents.to(device),
            images=None if self.images is None else self.images.to(device),
            conditioning=None if self.conditioning is None else self.conditioning.to(device, dtype),
            companions={role: tensor.to(device) for role, tensor in self.companions.items()},
        )

    def select(self, positions: Sequence[int]) -> Batch:
        """The items at `positions`."""
        at = list(positions)
        return replace(
            self,
            names=tuple(self.names[i] for i in at),
            prompts=tuple(self.prompts[i] for i in at),
            weights=self.weights[at],
            slots=tuple(self.slots[i] for i in at),
            latents=None if self.latents is None else self.latents[at],
            images=None if self.images is None else self.images[at],
            conditioning=None if self.conditioning is None else self.conditioning.select(at),
            companions={role: tensor[at] for role, tensor in self.companions.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One loss to run backward on: per item `[B]` float32, its weights `[B]`, and named parts for the log.

    `t`: the noise levels `[B]`, where there are any, so that messages can name them.
    """

    per_item: Tensor
    weight: Tensor
    t: Tensor | None = None
    terms: Mapping[str, float] = field(default_factory=dict)


class Objective(ABC):
    """What one training step minimises."""

    needs: tuple[PartName, ...] = ("denoiser",)  # parts that stay loaded
    reads: Literal["latents", "images"] = "latents"  # what a batch must hold

    @abstractmethod
    def losses(self, family: Family, parts: Parts, batch: Batch, draw: Draw) -> Iterator[Loss]:
        """Yield losses one by one; the trainer runs backward on each before it asks for the next."""

    @abstractmethod
    def at(self, family: Family, parts: Parts, batch: Batch, draw: Draw, t: float) -> Tensor:
        """Unweighted error per item `[B]` at noise level t, for validation."""

    def finish(self, family: Family, parts: Parts, batches: Iterator[Batch]) -> None:
        """Last touches on what was trained, before it is saved; `batches` are a few of the training data."""
