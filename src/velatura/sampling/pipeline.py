"""The Pipeline: a loaded model, ready to paint."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch
from PIL import Image
from torch import Tensor

from velatura.errors import RecipeError
from velatura.events import Event, Events, Notice
from velatura.families.attending import attention_for
from velatura.families.registry import family_for, family_named, files_of
from velatura.interfaces import Conditioning, Family, Parts, Pieces
from velatura.placement.attention import AttentionName
from velatura.placement.device import choose_device, choose_dtype
from velatura.placement.precision.quantised import Weights
from velatura.recipe.families.files import ModelSection
from velatura.sampling.held import HeldParts
from velatura.sampling.memory import Encoders, enough_to
from velatura.sampling.painter import (
    as_tensor,
    encode_request,
    filled,
    lost_negative,
    no_picture,
    paint,
    request_texts,
    to_images,
)
from velatura.sampling.reading import remark_cuts
from velatura.sampling.request import Request

Progress = Callable[[int, int], None]


class Pipeline:
    """A model that paints. Parts are loaded when they are first needed.

    On a GPU that cannot hold all parts the text encoders are released once a prompt is encoded, before the denoiser
    is loaded. What the user should know of a prompt, such as words that no text encoder reads, is told to `events`.

    >>> pipeline = Pipeline.load("pocket/flux")
    >>> image = pipeline("a large red matte cube at noon", seed=0)[0]
    """

    def __init__(self, held: HeldParts) -> None:
        self.held = held
        self._encoded: tuple[tuple[object, ...], Conditioning] | None = None

    @classmethod
    def load(
        cls,
        model: str | ModelSection,
        *,
        base: Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        weights: Weights = "full",
        autoencoder: Pieces = "auto",
        streamed: float = 0.0,
        text_encoders: Encoders = "auto",
        attention: AttentionName = "sdpa",
        split_attention: bool = False,
        compiled: bool = False,
        events: Events | None = None,
    ) -> Pipeline:
        """Open a model: 'pocket/flux', a diffusers folder, a hub id, or a recipe's `[model]` section.

        `weights`: of the denoiser's blocks; "fp8" and "int8" hold them in 8 bits, half of bf16, a little less exact;
        "int8" multiplies in 8 bits too; "nf4" takes 4 bits, and is less exact. `autoencoder`: in which pieces it runs,
        "auto", "whole", "sliced" or "tiled". `streamed`: share of the denoiser's block weights that visit the device
        only when they are computed with. `text_encoders`: "cpu" runs them in the machine's memory. `attention`: its
        kernel, "sdpa" or that of a package, "flash", "flash3", "sage" or "xformers"; where it cannot be had, a remark
        says why and "sdpa" is used. `split_attention`: for one picture of a batch at a time. `compiled`: the denoiser's
        blocks, which takes up to a minute for each size of picture and of batch, and makes steps faster. Relative
        paths start at `base`, default: the working folder. Remarks go to `events`, by default they become Python
        warnings. Raises ModelError, RecipeError.
        """
        for name, value, allowed in (
            ("weights", weights, get_args(Weights)),
            ("autoencoder", autoencoder, get_args(Pieces)),
            ("text_encoders", text_encoders, get_args(Encoders)),
            ("attention", attention, get_args(AttentionName)),
        ):
            if value not in allowed:
                raise RecipeError(f"received {name} '{value}'; allowed: {', '.join(allowed)}")
        if not 0 <= streamed <= 1:
            raise RecipeError(f"received streamed = {streamed:g}; allowed: a share from 0 to 1")
        start = base or Path.cwd()
        section = family_named(model, start) if isinstance(model, str) else model
        family, files = family_for(section), files_of(section, start)
        where = choose_device(device)
        dtype = choose_dtype(precision, where)
        told = events or Events(as_warning)
        held = HeldParts(
            family=family,
            files=files,
            parts=Parts(info=family.inspect(files), pieces=autoencoder),
            device=where,
            dtype=dtype,
            weights=weights,
            streamed=streamed,
            text_encoders=text_encoders,
            events=told,
            compiled=compiled,
            attention=attention_for(
                family, files, attention, split=split_attention, device=where, dtype=dtype, events=told
            ),
        )
        return cls(held)

    def add_lora(self, file: Path | str, weight: float = 1.0) -> None:
        """Put a LoRA file on the model, on top of those added before.

        Layers for text encoders are put on when those are loaded. Raises CheckpointError when it does not fit,
        RecipeError for a weight that is no finite number, MemoryShortage.
        """
        if not math.isfinite(weight):
            raise RecipeError(f"the weight of a LoRA must be a finite number, received {weight} for {file}")
        self.held.add_lora(Path(file), float(weight))
        self._encoded = None

    def remove_loras(self) -> None:
        """Take all LoRAs off again."""
        self.held.remove_loras()
        self._encoded = None

    @property
    def parts(self) -> Parts:
        """The parts, as far as they are loaded now."""
        return self.held.parts

    @property
    def family(self) -> Family:
        """The model's family."""
        return self.held.family

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
        """Paint what a request says; unset values are the model's defaults. Raises RecipeError, NumericError."""
        request = self.complete(request)
        if image is None and request.strength != 1:
            raise RecipeError(
                f"strength = {request.strength} says how much an input image changes, and no image is given"
            )
        if image is not None and image.size != (request.width, request.height):
            raise RecipeError(
                f"the input image is {image.width}x{image.height} and the picture {request.width}x{request.height}: "
                "resize the image, or ask for its size"
            )
        what = f"paint {request.width}x{request.height} in a batch of {request.batch}"
        less = "a smaller size or batch, another device, or weights in int8 or fp8"
        with enough_to(what, self.held.device, instead=less):
            conditioning = self._condition(request)
            start = None if image is None else self._start(image)
            self.held.need("denoiser")
            latents = paint(
                self.family,
                self.parts,
                request,
                conditioning,
                device=self.held.device,
                start=start,
                progress=progress,
            )
            self._check_finite(latents)
            self.held.need("autoencoder")
        what = f"decode {request.width}x{request.height} with the autoencoder {self.parts.pieces}"
        less = "the autoencoder sliced, or tiled, which needs the least"
        with enough_to(what, self.held.device, instead=less):
            return to_images(self.family, self.parts, latents)

    def _check_finite(self, latents: Tensor) -> None:
        """Nothing that is NaN becomes a black picture without a word. Raises NumericError."""
        if not latents.isfinite().all():
            raise no_picture(
                "denoiser",
                self.held.dtype,
                "get its file again; or a LoRA's strength is too high: lower it",
            )

    def complete(self, request: Request) -> Request:
        """The request with the model's defaults where it is silent. Raises RecipeError for values out of range."""
        return filled(request, self.parts.info)

    def _condition(self, request: Request) -> Conditioning:
        key = (request.prompt, request.negative, request.cfg == 1.0)
        if self._encoded is None or self._encoded[0] != key:
            self.held.need("text_encoders")
            self._remark(request)
            encoded = encode_request(self.family, self.parts, request).to(self.held.device, self.held.dtype)
            self._encoded = (key, encoded)
            if not self.held.keeps_all:
                self.held.release_text_encoders()
        return self._encoded[1]

    def _remark(self, request: Request) -> None:
        """What of the request has no effect."""
        texts = dict(zip(("the prompt", "the negative prompt"), request_texts(request), strict=False))
        remark_cuts(self.family, self.parts, texts, self.held.events, "prompt")
        if lost := lost_negative(request):
            self.held.events.warn(lost)

    @torch.no_grad()
    def _start(self, image: Image.Image) -> Tensor:
        """Latents of the input image."""
        self.held.need("autoencoder")
        return self.family.encode_image(self.parts, as_tensor(image).to(self.held.device))


def as_warning(event: Event) -> None:
    """A listener for those who have none: remarks become Python warnings, whatever their level."""
    if isinstance(event, Notice):
        warnings.warn(event.message, stacklevel=2)
