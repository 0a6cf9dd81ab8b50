from __future__ import annotations

import pytest

from velatura.errors import RecipeError
from velatura.recipe.byte_sizes import size_in_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GiB", 24 * 2**30), ("24 GB", 24 * 10**9), ("8", 8 * 2**30), ("1.5g", 3 * 2**29), ("512MiB", 2**29)],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "0", "24 TB", "nan"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="for example 24GiB"):
        size_in_bytes(text)


@pytest.mark.parametrize("text", ["0.0000001MB", "0.0000000001"])
def test_less_than_a_byte_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="less than one byte; allowed"):
        size_in_bytes(text)
