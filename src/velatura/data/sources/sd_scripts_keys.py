"""The dataset file of sd-scripts as its users write it: which keys there are, on which level, of which type.

Every key may be left out: then the level above counts (subset, dataset, general), then what the recipe says.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from velatura.recipe.path_keys import sound_path
from velatura.recipe.section import Section

_Share = Annotated[float, Field(ge=0, le=1)]
_Edge = Annotated[int, Field(ge=16, le=16384)]
_Path = Annotated[str, Field(min_length=1), AfterValidator(sound_path)]


class EveryLevel(Section):
    """Keys that all three levels know."""

    num_repeats: Annotated[int, Field(le=10**9)] | None = None
    caption_extension: Annotated[str, Field(min_length=1)] | None = None
    class_tokens: str | None = None
    caption_prefix: str | None = None
    caption_suffix: str | None = None
    caption_separator: Annotated[str, Field(min_length=1)] | None = None
    enable_wildcard: bool | None = None
    shuffle_caption: bool | None = None
    keep_tokens: Annotated[int, Field(ge=0)] | None = None
    keep_tokens_separator: str | None = None
    secondary_separator: str | None = None
    caption_dropout_rate: _Share | None = None
    caption_dropout_every_n_epochs: Annotated[int, Field(ge=0)] | None = None
    caption_tag_dropout_rate: _Share | None = None
    token_warmup_min: Annotated[int, Field(ge=0)] | None = None
    token_warmup_step: Annotated[float, Field(ge=0)] | None = None
    color_aug: bool | None = None
    flip_aug: bool | None = None
    random_crop: bool | None = None
    face_crop_aug_range: list[float] | None = None
    resize_interpolation: (
        Literal["lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", "box"] | None
    ) = None
    cache_info: bool | None = None
    custom_attributes: dict[str, Any] | None = None


class General(EveryLevel):
    """`[general]`: what holds for all datasets."""

    resolution: _Edge | Annotated[list[_Edge], Field(min_length=2, max_length=2)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    enable_bucket: bool | None = None
    min_bucket_reso: Annotated[int, Field(ge=1)] | None = None
    max_bucket_reso: Annotated[int, Field(ge=1)] | None = None
    bucket_reso_steps: Annotated[int, Field(ge=8)] | None = None
    bucket_no_upscale: bool | None = None
    validation_split: _Share | None = None
    validation_seed: Annotated[int, Field(ge=0)] | None = None
    network_multiplier: float | None = None


class Subset(EveryLevel):
    """`[[datasets.subsets]]`: one folder or one metadata file."""

    image_dir: _Path | None = None
    is_reg: bool | None = None
    alpha_mask: bool | None = None
    metadata_file: _Path | None = None
    conditioning_data_dir: _Path | None = None


class Dataset(General):
    """`[[datasets]]`: images of one resolution, trained in batches of their own."""

    subsets: list[Subset] = Field([])


class DatasetFile(Section):
    """The whole file."""

    general: General = General()
    datasets: list[Dataset] = Field([])
