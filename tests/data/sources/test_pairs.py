"""Pairs are made by name; where a name does not tell, nothing is guessed."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velatura.data.sources.pairs import match_pattern, pair, stem_of

names = st.text("abAB", min_size=1, max_size=2)
paths = st.sets(st.tuples(names, st.sampled_from([".png", ".jpg", ".webp"])).map("".join), max_size=8)


def by_name(images: list[str], files: list[str]) -> dict[str, str]:
    return dict(pair(images, {path: path for path in files}, "mask").found)


def test_position_in_the_list_means_nothing() -> None:
    # sorted by name and paired by index, as the peer does it, 10 would meet 2's file and 3 would meet 10's
    assert by_name(["10.png", "2.png", "3.png"], ["2.jpg", "3.jpg", "extra.jpg"]) == {
        "2.png": "2.jpg",
        "3.png": "3.jpg",
    }


@given(paths, paths)
def test_every_pair_shares_its_name_and_no_file_serves_two(images: set[str], files: set[str]) -> None:
    pairs = pair(images, {path: path for path in files}, "mask")
    assert all(stem_of(image) == stem_of(file) for image, file in pairs.found.items())
    assert len(set(pairs.found.values())) == len(pairs.found)
    assert set(pairs.found) | set(pairs.reasons) == images
    assert not set(pairs.found) & set(pairs.reasons)
    assert all(pairs.found[image] == image for image in images & files)  # the whole name decides first


@given(paths, paths)
def test_the_order_of_the_listing_does_not_matter(images: set[str], files: set[str]) -> None:
    forth, back = sorted(images), sorted(images, reverse=True)
    assert by_name(forth, sorted(files)) == by_name(back, sorted(files, reverse=True))


def test_twins_by_extension() -> None:
    assert by_name(["a.png", "a.jpg"], ["a.png", "a.jpg"]) == {"a.png": "a.png", "a.jpg": "a.jpg"}
    one_left = pair(["a.png", "a.jpg"], {"a.png": "a.png"}, "mask")
    assert one_left.found == {"a.png": "a.png"}
    assert one_left.reasons == {"a.jpg": "has no mask image of the same name"}
    assert by_name(["a.png", "a.jpg"], ["a.png", "a.webp"]) == {"a.png": "a.png", "a.jpg": "a.webp"}


def test_what_a_name_does_not_tell() -> None:
    two_files = pair(["a.jpg"], {"a.png": "a.png", "a.webp": "a.webp"}, "mask")
    assert two_files.reasons == {"a.jpg": "the image a.jpg and 2 mask files (a.png, a.webp) share a name"}
    two_images = pair(["a.jpg", "a.png"], {"a.webp": "a.webp"}, "mask")
    assert set(two_images.reasons) == {"a.jpg", "a.png"}
    assert two_images.alone == []


def test_near_misses_are_named() -> None:
    pairs = pair(["Dog.png"], {"dog.png": "dog.png"}, "mask")
    assert pairs.reasons["Dog.png"].endswith("(there is dog.png: upper and lower case differ)")
    assert pairs.alone == ["dog.png"]


def test_composed_and_decomposed_names_are_the_same() -> None:
    composed, decomposed = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert by_name([composed], [decomposed]) == {composed: decomposed}


def test_sub_folders_are_part_of_the_name() -> None:
    assert by_name(["x/a.png", "y/a.png"], ["y/a.jpg"]) == {"y/a.png": "y/a.jpg"}


@pytest.mark.parametrize(
    ("relative", "pattern", "image"),
    [
        ("dog_mask.png", "*_mask", "dog.png"),
        ("sub/dog_mask.png", "*_mask", "sub/dog.png"),
        ("dog_mask.jpg", "*_mask.png", None),
        ("dog_mask.png", "*_mask.png", "dog.png"),
        ("mask_dog.npy", "mask_*", "dog.npy"),
        ("dog.png", "*_mask", None),
        ("_mask.png", "*_mask", None),
        ("dog.v2-masklabel.png", "*-masklabel", "dog.v2.png"),
    ],
)
def test_patterns(relative: str, pattern: str, image: str | None) -> None:
    assert match_pattern(relative, pattern) == image
