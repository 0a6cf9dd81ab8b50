"""Sd-scripts' own caching of latents, from a clone of its repository, as a contestant of cache.py."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from cache_case import ENCODERS, Case
from contest import Step
from step_peers import importable, stood_in

NEEDED = ("cv2", "imagesize", "toml", "voluptuous", "einops")
"""Packages that it imports; torchvision is stood in for."""

UNUSED = ("library.lpw_stable_diffusion", "library.sdxl_lpw_stable_diffusion")
"""Its pipelines for previews, which want an older transformers."""

Transform = Callable[[Any], Any]


def sd_scripts(case: Case, folder: Path) -> Step:
    """`new_cache_latents` of sd-scripts' datasets, with the strategy for FLUX.1, to the disk."""
    with importable(folder / "sd-scripts"), _transforms():
        from library import train_util  # type: ignore[import-not-found]
        from library.strategy_base import LatentsCachingStrategy  # type: ignore[import-not-found]
        from library.strategy_flux import FluxLatentsCachingStrategy  # type: ignore[import-not-found]

    train_util.HIGH_VRAM = True  # --highvram: without it most of the time goes into collecting garbage
    strategy = FluxLatentsCachingStrategy(True, case.batch, False)
    LatentsCachingStrategy.set_strategy(strategy)
    encoder = ENCODERS[case.autoencoder]()
    vae = SimpleNamespace(
        encode=encoder.latents, device=torch.device("cpu"), dtype=next(encoder.parameters()).dtype
    )
    scale = max(edge / whole for edge, whole in zip(case.bucket, case.photo, strict=True))
    resized = tuple(
        max(edge, round(whole * scale)) for edge, whole in zip(case.bucket, case.photo, strict=True)
    )
    subset = SimpleNamespace(flip_aug=False, alpha_mask=False, random_crop=False)
    accelerator = SimpleNamespace(num_processes=1, process_index=0, device=vae.device)

    def step() -> None:
        for path in case.folder.glob("*.npz"):
            path.unlink()
        images = {}
        for path in case.files:
            image = train_util.ImageInfo(path.name, 1, "", False, str(path))
            image.image_size, image.bucket_reso, image.resized_size = case.photo, case.bucket, resized
            images[path.name] = image
        dataset = SimpleNamespace(image_data=images, image_to_subset=dict.fromkeys(images, subset))
        train_util.BaseDataset.new_cache_latents(dataset, vae, accelerator)

    return step


def _to_tensor(image: Any) -> torch.Tensor:
    """uint8 `[H, W, 3]` -> float32 `[3, H, W]` in 0..1."""
    return torch.from_numpy(image.transpose(2, 0, 1)).contiguous().float().div(255)


def _normalised(mean: Sequence[float], std: Sequence[float]) -> Transform:
    return lambda tensor: tensor.clone().sub_(mean[0]).div_(std[0])


def _composed(each: Sequence[Transform]) -> Transform:
    return lambda value: reduce(lambda result, one: one(result), each, value)


@contextmanager
def _transforms() -> Iterator[None]:
    """What sd-scripts imports and is not there: of torchvision, the three transforms that it calls."""
    with stood_in("torchvision", unused=UNUSED):
        if "torchvision" not in sys.modules:
            yield
            return
        three = SimpleNamespace(Compose=_composed, ToTensor=lambda: _to_tensor, Normalize=_normalised)
        sys.modules["torchvision"].transforms = three  # type: ignore[attr-defined]
        yield
