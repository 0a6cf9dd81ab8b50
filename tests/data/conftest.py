"""Small pictures, and a family whose encoders are arithmetic: results can be predicted by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from torch import Tensor, nn

from velatura.data.items import Item
from velatura.data.places import FilePlace
from velatura.data.scanning.probe import content_hash
from velatura.data.text.captions import Caption
from velatura.events import Event, Events, Notice
from velatura.interfaces import Conditioning, ModelInfo, Parts, Posterior, Prompt, SamplingDefaults

torch.set_num_threads(1)
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
CORNERS = np.array(
    [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8
)  # red green / blue white


def quarters(width: int = 64, height: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Four corners of four colours: every turn and mirror image of it is different."""
    return CORNERS.repeat(height // 2, 0).repeat(width // 2, 1)


@dataclass
class Log:
    """All events, and the notices' texts."""

    seen: list[Event] = field(default_factory=list)

    @property
    def events(self) -> Events:
        return Events(self.seen.append)

    @property
    def texts(self) -> list[str]:
        return [event.message for event in self.seen if isinstance(event, Notice)]

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.seen]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def picture() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return quarters()


@pytest.fixture
def write_image(tmp_path: Path) -> Callable[..., Path]:
    """Write a noise picture (by seed) under tmp_path, with a caption file if given."""

    def write(
        name: str, size: tuple[int, int] = (64, 64), *, seed: int = 0, caption: str | None = None
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption, encoding="utf-8")
        return path

    return write


@pytest.fixture
def make_item(write_image: Callable[..., Path]) -> Callable[..., Item]:
    """An item with its file; keyword arguments override fields."""

    def make(name: str, size: tuple[int, int] = (64, 64), *, seed: int = 0, **changes: Any) -> Item:
        path = write_image(name, size, seed=seed)
        content = content_hash(path.read_bytes())
        item = Item(
            name=name,
            place=FilePlace(str(path)),
            caption=Caption(text=f"about {name}", origin="file"),
            width=size[0],
            height=size[1],
            content=content,
            source=0,
        )
        known = {field.name for field in fields(Item)}
        treatment = replace(item.treatment, **{k: v for k, v in changes.items() if k not in known})
        return replace(item, treatment=treatment, **{k: v for k, v in changes.items() if k in known})

    return make


INFO = ModelInfo(
    family="fake",
    variant="test",
    architecture="fake-1",
    latent_channels=3,
    latent_scale=8,
    size_step=16,
    prediction="velocity",
    shifted=False,
    defaults=SamplingDefaults(size=64, steps=4),
    fingerprints={"autoencoder": "ae-1", "text_encoders": "te-1", "denoiser": "d-1"},
)


@dataclass
class FakeFamily:
    """Latents are the means of 8 x 8 pixels; the embedding of a text is its length and its first letter."""

    encoded: list[int] = field(default_factory=list)  # batch sizes
    texts: list[str] = field(default_factory=list)
    stop_after: int | None = None  # raise KeyboardInterrupt after so many batches

    def encode_image(self, parts: Parts, images: Tensor, draw: Any = None) -> Tensor:
        if self.stop_after is not None and len(self.encoded) >= self.stop_after:
            raise KeyboardInterrupt
        self.encoded.append(len(images))
        return nn.functional.avg_pool2d(images, 8)

    def posterior(self, parts: Parts, images: Tensor) -> Posterior:
        mean = self.encode_image(parts, images)
        return Posterior(mean=mean, deviation=0.1 + mean.abs())

    def encode(self, parts: Parts, prompts: Sequence[Prompt]) -> Conditioning:
        self.texts += [prompt.text for prompt in prompts]
        length = torch.tensor([[float(len(prompt.text))] for prompt in prompts], dtype=torch.bfloat16)
        ids = torch.tensor([[ord((prompt.text or "-")[0])] * 4 for prompt in prompts])
        return Conditioning(tensors={"pooled": length, "ids": ids})


@pytest.fixture
def family() -> Any:
    return FakeFamily()


@pytest.fixture
def info() -> ModelInfo:
    return INFO


@pytest.fixture
def parts() -> Parts:
    return Parts(info=INFO, autoencoder=nn.Linear(1, 1), text_encoders=(nn.Linear(1, 1),))
