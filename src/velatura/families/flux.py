"""FLUX.1: dev, schnell, Krea and every model of their shape, whatever its width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from velatura.draws import Draw
from velatura.families.autoencoder import decode_latents, encode_image, posterior
from velatura.families.flux_files import (
    HUB_EXAMPLE,
    TOKENIZERS,
    inspect_flux,
    load_flux,
    save_flux,
    sketch_denoiser,
)
from velatura.families.flux_forward import FluxInputs, flux_forward
from velatura.families.parts import loaded
from velatura.families.tokenizers import load_tokenizers, token_count, token_ids
from velatura.interfaces import (
    Conditioning,
    Family,
    ModelFiles,
    ModelInfo,
    PartName,
    Parts,
    Posterior,
    Prompt,
    Schedule,
    Target,
)

PATCH = 2  # latent pixels per token edge


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
        """e^mu / (e^mu + 1/t - 1); mu is linear in the tokens: 0.5 at 256, 1.15 at 4096."""
        mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
        return math.exp(mu) / (math.exp(mu) + 1 / t - 1)


class FluxFamily(Family):
    """FLUX.1. `text_length` is the T5 length; default: the model's own."""

    name = "flux"

    def __init__(self, *, text_length: int | None = None) -> None:
        self.text_length = text_length
        self.schedule = FlowSchedule()

    def inspect(self, files: ModelFiles) -> ModelInfo:
        """See `Family.inspect`."""
        info = inspect_flux(files)
        self.schedule = FlowSchedule(shifted=info.shifted)
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
        return load_flux(files, self.inspect(files), parts, device=device, dtype=dtype, seed=seed)

    def sketch(self, files: ModelFiles) -> nn.Module:
        """See `Family.sketch`."""
        return sketch_denoiser(files)

    def save(
        self, parts: Parts, files: ModelFiles, folder: Path, saved: Sequence[PartName], *, dtype: torch.dtype
    ) -> None:
        """See `Family.save`."""
        save_flux(parts, files, folder, saved, dtype)

    def encode(self, parts: Parts, prompts: Sequence[Prompt]) -> Conditioning:
        """`pooled` [B, 768] from CLIP, `text` [B, L, 4096] from T5; padding takes part, as FLUX was trained."""
        encoders: tuple[Any, ...] = loaded(parts.text_encoders, "text encoders")
        clip, t5 = encoders
        texts = [prompt.text for prompt in prompts]
        clip_ids, t5_ids = (
            token_ids(tokenizer, texts, length)
            for tokenizer, length in zip(_tokenizers(parts), self._lengths(parts), strict=True)
        )
        pooled = clip(clip_ids.to(clip.device)).pooler_output
        text = t5(t5_ids.to(t5.device)).last_hidden_state
        return Conditioning(tensors={"pooled": pooled, "text": text})

    def tokenizers(self, files: ModelFiles) -> tuple[Any, ...]:
        """See `Family.tokenizers`."""
        return load_tokenizers(files, TOKENIZERS, HUB_EXAMPLE)

    def token_counts(self, parts: Parts, text: str) -> tuple[tuple[int, int], ...]:
        """See `Family.token_counts`: CLIP, then T5."""
        counts = (token_count(tokenizer, text) for tokenizer in _tokenizers(parts))
        return tuple(zip(counts, self._lengths(parts), strict=True))

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
        )
        return unpack(flux_forward(denoiser, inputs).float(), inputs.grid)

    def blocks(self, denoiser: nn.Module) -> Sequence[nn.Module]:
        """Double-stream blocks, then single-stream blocks."""
        return [*denoiser.transformer_blocks, *denoiser.single_transformer_blocks]  # type: ignore[misc]

    def targets(self, denoiser: nn.Module) -> Sequence[Target]:
        """Linears of the blocks in three groups, and the `embedders` around them."""
        return flux_targets(denoiser)

    def tokens(self, latents: Tensor) -> int:
        """One token per 2 x 2 latent pixels."""
        return (latents.shape[2] // PATCH) * (latents.shape[3] // PATCH)

    def _lengths(self, parts: Parts) -> tuple[int, int]:
        """Token counts that CLIP and T5 read."""
        most = 256 if parts.info.variant == "schnell" else 512
        clip, t5 = (int(tokenizer.model_max_length) for tokenizer in _tokenizers(parts))
        return min(clip, 77), self.text_length or min(t5, most)


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


# module suffix -> (group, what it shares its input with, leaf of the kohya name, position and parts of the fused layer)
_DOUBLE = {
    "attn.to_q": ("attention", "img_attn_qkv", 0),
    "attn.to_k": ("attention", "img_attn_qkv", 1),
    "attn.to_v": ("attention", "img_attn_qkv", 2),
    "attn.add_q_proj": ("attention", "txt_attn_qkv", 0),
    "attn.add_k_proj": ("attention", "txt_attn_qkv", 1),
    "attn.add_v_proj": ("attention", "txt_attn_qkv", 2),
    "attn.to_out.0": ("attention", "img_attn_proj", None),
    "attn.to_add_out": ("attention", "txt_attn_proj", None),
    "ff.net.0.proj": ("mlp", "img_mlp_0", None),
    "ff.net.2": ("mlp", "img_mlp_2", None),
    "ff_context.net.0.proj": ("mlp", "txt_mlp_0", None),
    "ff_context.net.2": ("mlp", "txt_mlp_2", None),
    "norm1.linear": ("modulation", "img_mod_lin", None),
    "norm1_context.linear": ("modulation", "txt_mod_lin", None),
}
_SINGLE = {
    "attn.to_q": ("attention", "linear1", 0),
    "attn.to_k": ("attention", "linear1", 1),
    "attn.to_v": ("attention", "linear1", 2),
    "proj_mlp": ("mlp", "linear1", 3),
    "proj_out": ("mlp", "linear2", None),
    "norm.linear": ("modulation", "modulation_lin", None),
}
_EMBEDDERS = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in_in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in_out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in_in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in_out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in_in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in_out_layer",
    "norm_out.linear": "final_layer_adaLN_modulation_1",
    "proj_out": "final_layer_linear",
}


def flux_targets(denoiser: nn.Module) -> list[Target]:
    """Every linear layer of a `FluxTransformer2DModel` as an adapter target, in the order of execution."""
    modules = dict(denoiser.named_modules())
    found: list[Target] = []
    for blocks, kohya, table in (
        ("transformer_blocks", "double_blocks", _DOUBLE),
        ("single_transformer_blocks", "single_blocks", _SINGLE),
    ):
        for index in range(len(modules[blocks])):
            for suffix, (group, leaf, position) in table.items():
                fused = f"lora_unet_{kohya}_{index}_{leaf}"
                found.append(
                    Target(
                        module=f"{blocks}.{index}.{suffix}",
                        group=group,
                        shares=None if position is None else fused,
                        kohya=fused,
                    )
                )
    for module, leaf in _EMBEDDERS.items():
        if module in modules:
            found.append(Target(module=module, group="embedders", kohya=f"lora_unet_{leaf}"))
    return found


def _tokenizers(parts: Parts) -> tuple[Any, ...]:
    return loaded(parts.tokenizers, "tokenizers")
