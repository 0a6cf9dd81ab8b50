"""The Pipeline: a loaded model, ready to paint."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from velatura.adapters.attach import Adapter
from velatura.adapters.files import read_adapter
from velatura.adapters.merging import Lora, put_on_part
from velatura.errors import CheckpointError, RecipeError
from velatura.events import Event, Events, Notice
from velatura.families.registry import family_for, family_named, files_of
from velatura.interfaces import PARTS, Conditioning, Family, ModelFiles, ModelInfo, PartName, Parts
from velatura.placement.device import choose_device, choose_dtype
from velatura.recipe.families.files import ModelSection
from velatura.sampling.painter import (
    as_tensor,
    encode_request,
    filled,
    lost_negative,
    paint,
    request_texts,
    to_images,
)
from velatura.sampling.reading import remark_cuts
from velatura.sampling.request import Request

Progress = Callable[[int, int], None]
KEEP_ALL_ABOVE = 40 * 2**30  # bytes of GPU memory that hold FLUX with its text encoders


class Pipeline:
    """A model that paints. Parts are loaded when they are first needed.

    On a GPU that cannot hold all parts the text encoders are released again once a prompt is encoded. What the user
    should know of a prompt, such as words that no text encoder reads, is told to `events`.

    >>> pipeline = Pipeline.load("pocket/flux")
    >>> image = pipeline("a large red matte cube at noon", seed=0)[0]
    """

    def __init__(
        self,
        family: Family,
        files: ModelFiles,
        info: ModelInfo,
        *,
        device: torch.device,
        dtype: torch.dtype,
        events: Events | None = None,
    ) -> None:
        self.family = family
        self.files = files
        self.info = info
        self.device = device
        self.dtype = dtype
        self.events = events or Events(as_warning)
        self.parts = Parts(info=info)
        self._loras: list[tuple[Lora, float]] = []
        self._adapters: list[Adapter] = []
        self._encoded: tuple[tuple[object, ...], Conditioning] | None = None

    @classmethod
    def load(
        cls,
        model: str | ModelSection,
        *,
        base: Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        events: Events | None = None,
    ) -> Pipeline:
        """Open a model: 'pocket/flux', a diffusers folder, a hub id, or a recipe's `[model]` section.

        Relative paths start at `base`, default: the working folder. Remarks go to `events`, by default they become
        Python warnings. Raises ModelError, RecipeError.
        """
        start = base or Path.cwd()
        section = family_named(model, start) if isinstance(model, str) else model
        family, files = family_for(section), files_of(section, start)
        where = choose_device(device)
        dtype = choose_dtype(precision, where)
        return cls(family, files, family.inspect(files), device=where, dtype=dtype, events=events)

    def add_lora(self, file: Path | str, weight: float = 1.0) -> None:
        """Put a LoRA file on the model, on top of those added before.

        Layers for text encoders are put on when those are loaded. Raises CheckpointError when it does not fit.
        """
        values = read_adapter(Path(file), dtype=self.dtype)
        self._encoded = None
        if "denoiser" in values and self._keeps_all():
            self._part("denoiser")  # what does not fit is told at once
        before = len(self._adapters)
        try:
            for part in PARTS:
                if self.parts.modules(part):
                    self._put_on(part, values, float(weight))
        except CheckpointError:
            self._take_off(before)
            raise
        self._loras.append((values, float(weight)))

    def remove_loras(self) -> None:
        """Take all LoRAs off again."""
        self._loras.clear()
        self._encoded = None
        self._take_off(0)

    def __call__(
        self,
        prompt: str,
        *,
        negative: str = "",
        seed: int = 0,
        steps: int | None = None,
        width: int | None = None,
        height: int | None = None,
        guidance: float | None = None,
        cfg: float | None = None,
        image: Image.Image | None = None,
        strength: float = 1.0,
        batch: int = 1,
        progress: Progress = lambda done, total: None,
    ) -> list[Image.Image]:
        """Paint `batch` images of a prompt, each with its own noise.

        `guidance` is the distilled kind, `cfg` the classifier-free one (1 is off); `image` and `strength` change a
        picture instead of starting from noise. Unset values are the model's defaults. Raises RecipeError.
        """
        request = Request(
            prompt=prompt,
            negative=negative,
            seed=seed,
            steps=steps,
            width=width,
            height=height,
            guidance=guidance,
            cfg=cfg,
            strength=strength,
            batch=batch,
        )
        return self.paint(request, image=image, progress=progress)

    def paint(
        self,
        request: Request,
        *,
        image: Image.Image | None = None,
        progress: Progress = lambda done, total: None,
    ) -> list[Image.Image]:
        """Paint what a request says; unset values are the model's defaults."""
        request = self.complete(request)
        if image is None and request.strength != 1:
            raise RecipeError(
                f"strength = {request.strength} says how much an input image changes, and no image is given"
            )
        conditioning = self._condition(request)
        start = None if image is None else self._start(image, request)
        self._part("denoiser")
        latents = paint(
            self.family, self.parts, request, conditioning, device=self.device, start=start, progress=progress
        )
        self._part("autoencoder")
        return to_images(self.family, self.parts, latents)

    def complete(self, request: Request) -> Request:
        """The request with the model's defaults where it is silent. Raises RecipeError for values out of range."""
        return filled(request, self.info)

    def _condition(self, request: Request) -> Conditioning:
        key = (request.prompt, request.negative, request.cfg == 1.0)
        if self._encoded is None or self._encoded[0] != key:
            self._part("text_encoders")
            self._remark(request)
            encoded = encode_request(self.family, self.parts, request).to(self.device, self.dtype)
            self._encoded = (key, encoded)
            if not self._keeps_all():
                self.parts.text_encoders = self.parts.tokenizers = None
                torch.cuda.empty_cache()
        return self._encoded[1]

    def _remark(self, request: Request) -> None:
        """What of the request has no effect."""
        texts = dict(zip(("the prompt", "the negative prompt"), request_texts(request), strict=False))
        remark_cuts(self.family, self.parts, texts, self.events, "prompt")
        if lost := lost_negative(request):
            self.events.warn(lost)

    @torch.no_grad()
    def _start(self, image: Image.Image, request: Request) -> Tensor:
        """Latents of the input image, which must have the size that is painted."""
        size = (request.width, request.height)
        if image.size != size:
            raise RecipeError(
                f"the input image is {image.width}x{image.height} and the picture {size[0]}x{size[1]}: "
                "resize the image, or ask for its size"
            )
        self._part("autoencoder")
        return self.family.encode_image(self.parts, as_tensor(image).to(self.device))

    def _part(self, name: PartName) -> tuple[torch.nn.Module, ...]:
        if not self.parts.modules(name):
            crowded = name == "text_encoders" and self.parts.denoiser is not None and not self._keeps_all()
            device = torch.device("cpu") if crowded else self.device
            loaded = self.family.load(self.files, [name], device=device, dtype=self.dtype)
            for field in (name, "tokenizers") if name == "text_encoders" else (name,):
                setattr(self.parts, field, getattr(loaded, field))
            for values, weight in self._loras:
                self._put_on(name, values, weight)
        return self.parts.modules(name)

    def _put_on(self, part: PartName, lora: Lora, weight: float) -> None:
        for adapter in put_on_part(self.parts, part, lora):
            adapter.set_strength(weight)
            self._adapters.append(adapter)

    def _take_off(self, keep: int) -> None:
        """All adapters but the first `keep`, the last one first."""
        while len(self._adapters) > keep:
            self._adapters.pop().take_off()

    def _keeps_all(self) -> bool:
        if self.device.type != "cuda":
            return True
        return torch.cuda.get_device_properties(self.device).total_memory > KEEP_ALL_ABOVE


def as_warning(event: Event) -> None:
    """A listener for those who have none: remarks become Python warnings, whatever their level."""
    if isinstance(event, Notice):
        warnings.warn(event.message, stacklevel=2)
