"""Stable Diffusion 1.x: a UNet that predicts noise (or v), steered by one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from velatura.draws import Draw
from velatura.families.autoencoder import decode_latents, encode_image, posterior
from velatura.families.noise_schedule import NoiseSchedule
from velatura.families.parts import loaded
from velatura.families.sd1_files import (
    HUB_EXAMPLE,
    TOKENIZERS,
    inspect_sd1,
    load_sd1,
    save_sd1,
    schedule_config,
    sketch_denoiser,
    whole,
)
from velatura.families.tokenizers import load_tokenizers, token_count, token_ids
from velatura.families.unet import unet_blocks, unet_targets
from velatura.interfaces import (
    Conditioning,
    Family,
    ModelFiles,
    ModelInfo,
    PartName,
    Parts,
    Posterior,
    Prediction,
    Prompt,
    Target,
)

TEXT_LENGTH = 77  # tokens with the marks at both ends


class Sd1Family(Family):
    """Stable Diffusion 1.x. `prediction`: what the UNet predicts; None: what the scheduler's config says."""

    name = "sd1"
    schedule: NoiseSchedule

    def __init__(self, *, prediction: Prediction | None = None) -> None:
        self.prediction = prediction
        self.schedule = NoiseSchedule.from_config(schedule_config(ModelFiles()))

    def inspect(self, files: ModelFiles) -> ModelInfo:
        """See `Family.inspect`."""
        info = inspect_sd1(files, self.prediction)
        self.schedule = NoiseSchedule.from_config(schedule_config(whole(files)))
        return info

    def load(
        self,
        files: ModelFiles,
        parts: Sequence[PartName],
        *,
        device: torch.device,
        dtype: torch.dtype,
        seed: int = 0,
    ) -> Parts:
        """See `Family.load`."""
        return load_sd1(files, self.inspect(files), parts, device=device, dtype=dtype, seed=seed)

    def sketch(self, files: ModelFiles) -> nn.Module:
        """See `Family.sketch`."""
        return sketch_denoiser(whole(files))

    def save(
        self, parts: Parts, files: ModelFiles, folder: Path, saved: Sequence[PartName], *, dtype: torch.dtype
    ) -> None:
        """See `Family.save`."""
        save_sd1(parts, files, folder, saved, dtype)

    def encode(self, parts: Parts, prompts: Sequence[Prompt]) -> Conditioning:
        """`text` [B, 77, 768]: CLIP's last hidden states after its final layer norm; padding takes part."""
        clip: Any = loaded(parts.text_encoders, "text encoder")[0]
        ids = token_ids(_tokenizer(parts), [prompt.text for prompt in prompts], _length(parts))
        text: Tensor = clip(ids.to(clip.device)).last_hidden_state
        return Conditioning(tensors={"text": text})

    def tokenizers(self, files: ModelFiles) -> tuple[Any, ...]:
        """See `Family.tokenizers`."""
        return load_tokenizers(files, TOKENIZERS, HUB_EXAMPLE)

    def token_counts(self, parts: Parts, text: str) -> tuple[tuple[int, int], ...]:
        """See `Family.token_counts`."""
        return ((token_count(_tokenizer(parts), text), _length(parts)),)

    def encode_image(self, parts: Parts, images: Tensor, draw: Draw | None = None) -> Tensor:
        """See `Family.encode_image`."""
        return encode_image(loaded(parts.autoencoder, "autoencoder"), images, draw)

    def posterior(self, parts: Parts, images: Tensor) -> Posterior:
        """See `Family.posterior`."""
        return posterior(loaded(parts.autoencoder, "autoencoder"), images)

    def decode_latents(self, parts: Parts, latents: Tensor) -> Tensor:
        """See `Family.decode_latents`."""
        return decode_latents(loaded(parts.autoencoder, "autoencoder"), latents)

    def predict(
        self, parts: Parts, latents: Tensor, t: Tensor, conditioning: Conditioning, *, guidance: float = 1.0
    ) -> Tensor:
        """Noise or v, float32; distilled guidance does not exist here. k stays float32 up to its sinusoids."""
        denoiser: Any = loaded(parts.denoiser, "denoiser")
        dtype = denoiser.conv_in.weight.dtype
        predicted: Tensor = denoiser(
            latents.to(dtype),
            self.schedule.step(t),
            encoder_hidden_states=conditioning.tensors["text"].to(dtype),
            return_dict=False,
        )[0]
        return predicted.float()

    def blocks(self, denoiser: nn.Module) -> Sequence[nn.Module]:
        """The stages of the UNet: down, middle, up."""
        return unet_blocks(denoiser)

    def targets(self, denoiser: nn.Module) -> Sequence[Target]:
        """Linears of the transformer blocks in two groups, `projection` where it is linear, and the `embedders`."""
        return unet_targets(denoiser)

    def tokens(self, latents: Tensor) -> int:
        """One token per latent pixel, as the finest attention sees them."""
        return latents.shape[2] * latents.shape[3]


def _tokenizer(parts: Parts) -> Any:
    return loaded(parts.tokenizers, "tokenizer")[0]


def _length(parts: Parts) -> int:
    """Tokens per prompt."""
    return min(int(_tokenizer(parts).model_max_length), TEXT_LENGTH)
