"""Which training sizes the images of a `[[data]]` table get."""

from __future__ import annotations

import math
from collections.abc import Sequence

from velatura.data.batching.buckets import Bucket, assign, default_step, enlarges, make_buckets, own_size
from velatura.data.batching.compat_buckets import assign_as_sd_scripts
from velatura.data.batching.everydream2_compat import assign_as_everydream2, everydream2_buckets
from velatura.errors import RecipeError
from velatura.recipe.data.buckets import Bucketing
from velatura.recipe.data.items import SourceData

_ASSIGN = {None: assign, "sd-scripts": assign_as_sd_scripts, "everydream2": assign_as_everydream2}


class Sizes:
    """The sizes that a table allows: one list of buckets per resolution.

    `size_step`: image edges must be multiples of this. Raises RecipeError for sizes that the family cannot have.
    """

    def __init__(self, section: SourceData, size_step: int) -> None:
        self._section = section
        self._assign = _ASSIGN[section.compat]
        step = section.bucket_step
        if step is not None and step % size_step:
            raise RecipeError(
                f"[[data]] bucket_step = {step}, but this model's image edges are "
                f"multiples of {size_step}; use such a multiple."
            )
        self._choices = [
            (edge, step or default_step(int(edge), size_step), _buckets(section, edge, step, size_step))
            for edge in _edges(section)
        ]

    def of(self, width: int, height: int) -> list[Bucket]:
        """One size for each resolution that an image of this size can be trained at; none where it is too small."""
        found = [self._at(width, height, edge, step, buckets) for edge, step, buckets in self._choices]
        return list(dict.fromkeys(size for size in found if size is not None))

    def _at(
        self, width: int, height: int, edge: float, step: int, buckets: Sequence[Bucket]
    ) -> Bucket | None:
        if self._section.upscale == "own size":
            return own_size(width, height, round(edge * edge), step)
        size = self._assign(width, height, buckets)
        return None if not self._section.upscale and enlarges(width, height, size) else size


def _edges(section: Bucketing) -> list[float]:
    """The square roots of the areas that are trained."""
    if section.size is not None:
        return [math.sqrt(section.size[0] * section.size[1])]
    given = section.resolution
    return [given] if isinstance(given, int) else list(dict.fromkeys(given))


def _buckets(section: SourceData, edge: float, step: int | None, size_step: int) -> list[Bucket]:
    if section.buckets and section.compat == "everydream2" and section.size is None:
        if section.bucket_step or section.bucket_min or section.bucket_max:
            raise RecipeError(
                '[[data]] compat = "everydream2" has buckets of its own; leave out bucket_step, bucket_min and '
                "bucket_max."
            )
        return everydream2_buckets(int(edge), size_step)
    if section.buckets:
        chosen = step or default_step(int(edge), size_step)
        return make_buckets(edge, chosen, section.bucket_min, section.bucket_max)
    if section.size is None:
        return make_buckets(edge, size_step, min_edge=int(edge))
    width, height = (pixels // size_step * size_step for pixels in section.size)
    if not width or not height:
        raise RecipeError(
            f"[[data]] size = {section.size}; received an edge of less than {size_step} pixels."
        )
    return [(width, height)]
