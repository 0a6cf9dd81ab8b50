"""What every contestant of step.py trains: the shape of the network, the item, and the step as peers write it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from contest import Step
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

    from velatura.interfaces import ModelInfo

RANK, RATE = 16, 1e-4
GRID, TEXT = (32, 32), 256  # of the larger size
WIDTH, HEADS, DOUBLE, SINGLE, JOINT, POOLED = 768, 12, 3, 6, 512, 256
AXES = (8, 28, 28)
SHAPE = {
    "num_layers": DOUBLE,
    "num_single_layers": SINGLE,
    "attention_head_dim": WIDTH // HEADS,
    "num_attention_heads": HEADS,
    "joint_attention_dim": JOINT,
    "pooled_projection_dim": POOLED,
    "axes_dims_rope": AXES,
}

Predict = Callable[[Tensor, Tensor], Tensor]
"""Packed noisy latents `[1, N, 64]` and t `[1]` -> the packed velocity."""


@dataclass(frozen=True)
class Tokens:
    """How long the sequences are."""

    rows: int
    columns: int
    text: int

    @property
    def image(self) -> int:
        """Image tokens, four latent pixels each."""
        return self.rows * self.columns

    def __str__(self) -> str:
        return f"{self.image}+{self.text}"

    @property
    def flops(self) -> float:
        """Of a step: forward and input gradients of the linears, forward and backward of the attention."""
        tokens, blocks = self.image + self.text, DOUBLE + SINGLE
        linears = 2 * 2 * 12 * WIDTH**2 * tokens
        attention = 3 * 4 * WIDTH * tokens**2
        return float(blocks * (linears + attention))


SIZES = {"1024+256": Tokens(*GRID, TEXT), "256+128": Tokens(16, 16, 128)}


def denoiser(dtype: torch.dtype, device: torch.device) -> FluxTransformer2DModel:
    """Diffusers' FLUX; the same random weights for all who use it."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    return FluxTransformer2DModel(**SHAPE).to(device, dtype).requires_grad_(False)


def info(size: int = 1024, steps: int = 20, cfg: float = 1.0) -> ModelInfo:
    """What the trainer and the painter ask of a model, as of FLUX.1-dev."""
    from velatura.interfaces import ModelInfo, SamplingDefaults

    return ModelInfo(
        family="flux",
        variant="benchmark",
        architecture="flux-1-dev",
        latent_channels=16,
        latent_scale=8,
        size_step=16,
        prediction="velocity",
        shifted=True,
        defaults=SamplingDefaults(size=size, steps=steps, cfg=cfg),
        fingerprints={},
    )


def item(tokens: Tokens) -> dict[str, Tensor]:
    """Latents `[1, 16, H, W]`, noise, text and pooled text of the one item."""
    torch.manual_seed(1)
    latents = torch.randn(1, 16, 2 * tokens.rows, 2 * tokens.columns)
    return {
        "latents": latents,
        "noise": torch.randn_like(latents),
        "text": torch.randn(1, tokens.text, JOINT),
        "pooled": torch.randn(1, POOLED),
    }


def ids(tokens: Tokens, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of text and image tokens, `[L, 3]` and `[N, 3]`."""
    image = torch.zeros(tokens.rows, tokens.columns, 3, device=device)
    image[..., 1], image[..., 2] = torch.arange(tokens.rows)[:, None], torch.arange(tokens.columns)[None]
    return torch.zeros(tokens.text, 3, device=device), image.view(-1, 3)


def written_out(
    predict: Predict,
    parameters: Iterable[nn.Parameter],
    tokens: Tokens,
    dtype: torch.dtype,
    device: torch.device,
    *,
    autocast: bool,
) -> Step:
    """A flow matching step as example scripts write it: t, noise, loss, backward, clipping, fused AdamW."""
    trained = list(parameters)
    optimizer = torch.optim.AdamW(trained, lr=RATE, fused=True)
    data = {name: tensor.to(device) for name, tensor in item(tokens).items()}

    def pack(latents: Tensor) -> Tensor:
        squares = latents.view(1, 16, tokens.rows, 2, tokens.columns, 2).permute(0, 2, 4, 1, 3, 5)
        return squares.reshape(1, tokens.image, 64)

    def step() -> float:
        t = torch.sigmoid(torch.randn(1, device=device))
        noisy = pack((1 - t) * data["latents"] + t * data["noise"])
        with torch.autocast(device.type, dtype, enabled=autocast and dtype != torch.float32):
            out = predict(noisy.to(dtype), t)
        loss = (out.float() - pack(data["noise"] - data["latents"])).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step
