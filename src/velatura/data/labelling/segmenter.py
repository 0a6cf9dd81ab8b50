"""Masks by a semantic segmentation model of the transformers library: SegFormer, BEiT, UperNet and their kin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn

from velatura.data.labelling.models import loaded, on_device
from velatura.errors import RecipeError
from velatura.placement.device import choose_dtype
from velatura.recipe.errors import nearest

_NOTHING = ("background", "other", "unlabeled")  # labels of what is no subject


class Segmenter:
    """A segmentation model, ready. White is where it sees one of `labels`; by default, anything but background.

    Raises ModelError when there is no such model, or it is of another kind, RecipeError for labels that it has not.
    """

    def __init__(self, model: str, *, device: torch.device, labels: Sequence[str] = ()) -> None:
        from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

        what = "a segmentation model (AutoModelForSemanticSegmentation)"
        self._device, self._dtype = device, choose_dtype("auto", device)
        self._processor: Any = loaded(model, what, AutoImageProcessor.from_pretrained)
        self._model: Any = loaded(
            model,
            what,
            lambda folder: AutoModelForSemanticSegmentation.from_pretrained(folder, dtype=self._dtype),
        )
        self._model.to(device).eval()
        self._chosen = torch.tensor(_numbers(self._model.config.id2label, labels))

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """One mask for each RGB image, mode L, of its size: 255 where a label is, else 0."""
        inputs = on_device(
            self._processor(images=list(images), return_tensors="pt"), self._device, self._dtype
        )
        logits = self._model(**inputs).logits.float().cpu()  # [B, labels, h, w], coarser than the image
        return [self._mask(one, image.size) for one, image in zip(logits, images, strict=True)]

    def _mask(self, logits: torch.Tensor, size: tuple[int, int]) -> Image.Image:
        full = nn.functional.interpolate(logits[None], size=(size[1], size[0]), mode="bilinear")
        found = torch.isin(full.argmax(dim=1)[0], self._chosen)
        return Image.fromarray((found.to(torch.uint8) * 255).numpy())


def _numbers(known: dict[int, str], labels: Sequence[str]) -> list[int]:
    """The model's numbers of labels, whatever their case; a part of a name between commas counts as one."""
    names = {number: {part.strip().casefold() for part in name.split(",")} for number, name in known.items()}
    if not labels:
        nothing = [number for number, parts in names.items() if parts & set(_NOTHING)]
        if not nothing:
            raise RecipeError(
                f"this model has no label 'background': say with --label what is wanted. {_listed(known)}"
            )
        return [number for number in names if number not in nothing]
    chosen: list[int] = []
    for label in labels:
        found = [number for number, parts in names.items() if label.casefold() in parts]
        if not found:
            close = nearest(label, [part for parts in names.values() for part in parts])
            hint = f" Did you mean '{close}'?" if close else ""
            raise RecipeError(f"--label '{label}': the model does not know it.{hint} {_listed(known)}")
        chosen += found
    return chosen


def _listed(known: dict[int, str]) -> str:
    more = f" and {len(known) - 200} more" if len(known) > 200 else ""
    return f"Its labels: {', '.join(list(known.values())[:200])}{more}."
