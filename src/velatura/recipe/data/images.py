"""`[[data]]`: how an image becomes what the denoiser sees."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from velatura.recipe.section import Section


class Imaging(Section):
    """What happens to the pixels; masks and all other companions of an image go the same way."""

    resize: Literal["auto", "area", "box", "bilinear", "bicubic", "lanczos", "nearest"] = Field(
        "auto", description="The filter; auto: lanczos to shrink, bicubic to enlarge."
    )
    crop: Literal["centre", "random"] = Field(
        "centre", description="Which part is kept where the ratio differs."
    )
    crops: int = Field(
        4, ge=1, le=64, description="With random crops and a cache: how many are cached per image."
    )
    flip: float = Field(0.0, ge=0, le=1, description="Probability of a horizontal flip.")
    colour: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability of a small change of hue or gamma; such images cannot be cached.",
    )
    background: Literal["white", "black", "grey"] = Field(
        "white", description="What shows through transparency."
    )
    alpha: Literal["background", "mask"] = Field(
        "background", description="Transparency shows the background only, or is the loss mask as well."
    )
    min_size: int | None = Field(
        None, ge=1, description="Images whose shorter edge has fewer pixels are left out and listed."
    )
    upscale: bool | Literal["own size"] = Field(
        True,
        description="Enlarge images smaller than their bucket; false leaves them out, 'own size' gives them a bucket "
        "of their own size, cut to whole steps.",
    )
    max_pixels: int = Field(
        178_956_970, ge=1, le=2**32, description="Larger images are not decoded; they count as unusable."
    )
