"""FLUX.1: dev, schnell, Krea and every model of their shape, whatever its width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from velatura.errors import ModelError
from velatura.families.configs import check_fit, sampling_defaults, scheduler_config
from velatura.families.flux_blocks import attentions_of, feed_forwards, modulations
from velatura.families.flux_files import FLUX, flow_scheduler
from velatura.families.flux_forward import FluxInputs, Steering, flux_forward, steer
from velatura.families.flux_targets import flux_targets
from velatura.families.latent_family import LatentFamily, loaded
from velatura.families.listing import Headers, read_headers
from velatura.families.text import CLIP, T5
from velatura.interfaces import (
    Conditioning,
    ModelFiles,
    ModelInfo,
    Parts,
    Prompt,
    SamplingDefaults,
    Schedule,
    Target,
)
from velatura.recipe.families.flux import GUIDANCE

DEV = SamplingDefaults(size=1024, steps=28, guidance=GUIDANCE)
SCHNELL = SamplingDefaults(size=1024, steps=4)
PATCH = 2  # latent pixels per token edge
STEERING = "steering/"  # begins the names of what `along` adds: the vector, then the modulation of each block


class FlowSchedule(Schedule):
    """Rectified flow: x_t = (1 - t) x0 + t noise (arXiv:2209.03003), sampled with FLUX's shift by image size."""

    def __init__(self, shifted: bool = True) -> None:
        self.shifted = shifted

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """t."""
        return t

    def times(self, steps: int, tokens: int) -> Tensor:
        """1 … 1/steps, shifted for the token count unless the model is timestep-distilled, then 0."""
        times = torch.linspace(1, 1 / steps, steps)
        if self.shifted:
            times = self.shift(times, tokens)
        return torch.cat((times, torch.zeros(1)))

    def shift(self, t: Tensor, tokens: int) -> Tensor:
        """e^mu / (e^mu + 1/t - 1); mu is linear in the tokens: 0.5 at 256, 1.15 at 4096. 0 and 1 stay exactly so."""
        moved = math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)) * t
        return moved / (moved + (1 - t))


class FluxFamily(LatentFamily):
    """FLUX.1. `text_length` is the T5 length; default: the model's own."""

    name = "flux"
    listing = FLUX

    def __init__(self, *, text_length: int | None = None) -> None:
        self.text_length = text_length
        self.schedule = FlowSchedule()

    def inspect(self, files: ModelFiles) -> ModelInfo:
        """See `Family.inspect`."""
        return self.described(read_headers(FLUX, files, self.text_length), files)

    def described(self, found: Headers, files: ModelFiles) -> ModelInfo:
        """See `LatentFamily.described`."""
        _check_parts(found)
        guided = shifted = bool(found.denoiser["guidance_embeds"])
        if found.scheduler is not None:
            shifted = bool(found.scheduler.get("use_dynamic_shifting", False))
        self.schedule = FlowSchedule(shifted=shifted)
        return ModelInfo(
            family=self.name,
            variant="dev" if guided else ("undistilled" if shifted else "schnell"),
            architecture="flux-1-dev" if shifted else "flux-1-schnell",
            latent_channels=found.latent_channels,
            latent_scale=found.latent_scale,
            size_step=found.latent_scale * PATCH,
            prediction="velocity",
            shifted=shifted,
            guided=guided,
            defaults=sampling_defaults(files, DEV if shifted else SCHNELL),
            fingerprints=found.fingerprints,
            settings=found.settings,
        )

    def scheduler(self, files: ModelFiles, info: ModelInfo) -> dict[str, Any]:
        """See `LatentFamily.scheduler`."""
        config = scheduler_config(files) or flow_scheduler(info.shifted)
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", **config}

    def text_lengths(self, parts: Parts) -> tuple[int, ...]:
        """Token counts that CLIP and T5 read."""
        clip, t5 = super().text_lengths(parts)
        most = 256 if parts.info.variant == "schnell" else 512
        return clip, self.text_length or min(t5, most)

    def encode(self, parts: Parts, prompts: Sequence[Prompt]) -> Conditioning:
        """`pooled` [B, 768] from CLIP, `text` [B, L, 4096] from T5; padding takes part, as FLUX was trained."""
        (clip, clip_ids), (t5, t5_ids) = self.tokenized(parts, prompts)
        pooled, text = clip(clip_ids).pooler_output, t5(t5_ids).last_hidden_state
        return Conditioning(tensors={"pooled": pooled, "text": text})

    def predict(
        self, parts: Parts, latents: Tensor, t: Tensor, conditioning: Conditioning, *, guidance: float = 1.0
    ) -> Tensor:
        """Velocity noise - image, float32."""
        denoiser: Any = loaded(parts.denoiser, "denoiser")
        dtype = denoiser.x_embedder.weight.dtype
        inputs = FluxInputs(
            tokens=pack(latents).to(dtype),
            text=conditioning.tensors["text"].to(dtype),
            pooled=conditioning.tensors["pooled"].to(dtype),
            t=t,
            guidance=torch.full_like(t, guidance) if denoiser.config.guidance_embeds else None,
            grid=(latents.shape[2] // PATCH, latents.shape[3] // PATCH),
            steering=_steering(conditioning),
        )
        return unpack(flux_forward(denoiser, inputs).float(), inputs.grid)

    def along(
        self, parts: Parts, conditioning: Conditioning, times: Tensor, *, guidance: float = 1.0
    ) -> Sequence[Conditioning]:
        """With the modulation of all blocks: its layers are a quarter of the weights, read once for all times."""
        denoiser: Any = loaded(parts.denoiser, "denoiser")
        pooled = conditioning.tensors["pooled"].to(denoiser.x_embedder.weight.dtype)
        items = len(conditioning)
        t = times.to(pooled.device).repeat_interleave(items)
        strength = torch.full_like(t, guidance) if denoiser.config.guidance_embeds else None
        found = steer(denoiser, t, strength, pooled.repeat(len(times), 1))
        known = {"vector": found.vector} | {f"block{i}": made for i, made in enumerate(found.blocks)}
        steps = {f"{STEERING}{name}": made.split(items) for name, made in known.items()}
        return [
            Conditioning(
                tensors={**conditioning.tensors, **{name: made[step] for name, made in steps.items()}}
            )
            for step in range(len(times))
        ]

    def blocks(self, denoiser: nn.Module) -> Sequence[nn.Module]:
        """Double-stream blocks, then single-stream blocks."""
        return [*denoiser.transformer_blocks, *denoiser.single_transformer_blocks]  # type: ignore[misc]

    def ahead(self, denoiser: nn.Module) -> Sequence[nn.Module]:
        """The modulation of every block, 27 % of FLUX's weights: it reads t, guidance and pooled text alone."""
        return [layer for block in self.blocks(denoiser) for layer in modulations(block)]

    def attentions(self, denoiser: nn.Module) -> Sequence[Any]:
        """One in each block, of text and image as one sequence."""
        return attentions_of(denoiser)

    def feed_forwards(self, denoiser: nn.Module) -> Sequence[tuple[nn.Module, str]]:
        """The MLPs; of single blocks without their first layer, with the projection shared with the attention."""
        return [part for block in self.blocks(denoiser) for part in feed_forwards(block)]

    def targets(self, denoiser: nn.Module) -> Sequence[Target]:
        """Linears of the blocks in three groups, and the `embedders` around them."""
        return flux_targets(denoiser)

    def tokens(self, latents: Tensor) -> int:
        """One token per 2 x 2 latent pixels."""
        return (latents.shape[2] // PATCH) * (latents.shape[3] // PATCH)


def _check_parts(found: Headers) -> None:
    """Refuse parts of different models, and denoisers that want more than noisy latents."""
    config = found.denoiser
    packed = int(config["in_channels"])
    if (config.get("out_channels") or packed) != packed:
        raise ModelError(
            f"this FLUX denoiser takes {packed} channels and gives {config['out_channels']}: it is one for inpainting "
            "or control, which is not supported. Give dev, schnell, Krea or a model made from them."
        )
    clip, t5 = found.text_widths
    check_fit("autoencoder", "latent channels", found.latent_channels, packed // PATCH**2)
    check_fit(CLIP.what, "a width of", clip, int(config["pooled_projection_dim"]))
    check_fit(T5.what, "a width of", t5, int(config["joint_attention_dim"]))


def _steering(conditioning: Conditioning) -> Steering | None:
    """What `along` has put there."""
    known = [tensor for name, tensor in conditioning.tensors.items() if name.startswith(STEERING)]
    return Steering(vector=known[0], blocks=known[1:]) if known else None


def pack(latents: Tensor) -> Tensor:
    """`[B, C, H, W]` -> `[B, H/2 * W/2, 4 C]`, each token ordered (channel, row, column)."""
    b, c, h, w = latents.shape
    patches = latents.view(b, c, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(b, (h // PATCH) * (w // PATCH), c * PATCH * PATCH)


def unpack(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of `pack` for a grid of (rows, columns) tokens."""
    b, _, width = tokens.shape
    rows, columns = grid
    patches = tokens.view(b, rows, columns, width // PATCH**2, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(b, width // PATCH**2, rows * PATCH, columns * PATCH)
