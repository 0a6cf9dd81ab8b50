"""What every contestant of cache.py reads: photos, their bucket, and encoders that cost little or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

DIFFERENT = 8  # photos; files differ by name alone


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is cached."""

    folder: Path  # of the photos
    photo: tuple[int, int]  # width, height
    size: int  # pixels, edge of a square of as many as a bucket has
    autoencoder: str
    batch: int

    @property
    def files(self) -> list[Path]:
        """The photos."""
        return sorted(self.folder.glob("*.jpg"))

    @property
    def bucket(self) -> tuple[int, int]:
        """Width and height of what is encoded, multiples of 64."""
        root = (self.photo[0] / self.photo[1]) ** 0.5
        return 64 * round(self.size * root / 64), 64 * round(self.size / root / 64)


class NoEncoder(nn.Module):
    """Latents for nothing: a pixel of each 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def latents(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` -> `[B, 16, H / 8, W / 8]`."""
        return images[:, :1, ::8, ::8].expand(-1, 16, -1, -1)


class TinyEncoder(nn.Module):
    """The encoder of a small AutoencoderKL with random weights."""

    def __init__(self) -> None:
        from diffusers import AutoencoderKL

        super().__init__()
        torch.manual_seed(0)
        self.model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 16, 16),
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=16,
            mid_block_add_attention=False,
        )

    def latents(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` -> `[B, 16, H / 8, W / 8]`."""
        mode: Tensor = self.model.encode(images).latent_dist.mode()
        return mode


ENCODERS: dict[str, Callable[[], NoEncoder | TinyEncoder]] = {"none": NoEncoder, "tiny": TinyEncoder}


def photos(folder: Path, size: tuple[int, int], count: int) -> None:
    """JPEGs as of a camera: large shapes, fine grain, quality 92."""
    folder.mkdir(parents=True)
    for number in range(min(DIFFERENT, count)):
        draw = np.random.default_rng(number)
        coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
        grain = draw.normal(0, 6, (size[1], size[0], 1)).astype(np.float32)
        picture = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
        picture.save(folder / f"{number:04d}.jpg", quality=92)
    for number in range(DIFFERENT, count):
        shutil.copy(folder / f"{number % DIFFERENT:04d}.jpg", folder / f"{number:04d}.jpg")
