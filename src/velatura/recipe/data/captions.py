"""`[[data]]`: how a caption becomes the text of one use."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from velatura.recipe.section import Section


class Captioning(Section):
    """What happens to captions each time that an image is used; in this order, from top to bottom."""

    trigger: str | None = Field(
        None, description="A word put before every caption that does not begin with it; it is never shuffled."
    )
    caption_prefix: str | None = Field(None, description="Text put before every caption, with a space.")
    caption_suffix: str | None = Field(None, description="Text put after every caption, with a space.")
    caption_dropout: float | None = Field(
        None, ge=0, le=1, description="Share of uses with an empty caption; default: that of [objective]."
    )
    caption_dropout_every: int = Field(
        0, ge=0, description="Every so many epochs, all captions are empty; 0: never."
    )
    wildcards: bool = Field(
        False,
        description="`{a|b}` stands for one of its words, and of several lines one is chosen; `{{` is a plain brace.",
    )
    caption_lines: Literal["all", "first"] = Field(
        "all", description="Without wildcards: all lines of a caption as one text, or the first line alone."
    )
    tag_separator: str = Field(",", min_length=1, description="What stands between tags.")
    shuffle_tags: bool = Field(False, description="Another order of the tags at each use.")
    keep_tags: int = Field(0, ge=0, description="So many first tags stay where they are.")
    keep_tags_separator: str | None = Field(
        None,
        min_length=1,
        description="Text in captions that ends the fixed tags; a second one begins a fixed end.",
    )
    secondary_separator: str | None = Field(
        None,
        min_length=1,
        description="Text in captions that keeps tags together; becomes the separator at last.",
    )
    tag_dropout: float = Field(0.0, ge=0, le=1, description="Probability that a tag is left out at a use.")
    tag_warmup_steps: float = Field(
        0,
        ge=0,
        description="The number of tags grows from tag_warmup_min to all of them in so many steps; below 1: in this "
        "share of the run's steps.",
    )
    tag_warmup_min: int = Field(1, ge=0, description="Tags at the start of the warm-up.")
    max_caption_length: int | None = Field(
        None, ge=1, description="Characters; whole tags at the end are left out to keep within."
    )
    caption_variants: int | None = Field(
        None,
        ge=1,
        description="Draw so many texts per caption ahead and cache their embeddings; "
        "default: captions that change are encoded at every use.",
    )
