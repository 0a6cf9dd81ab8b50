"""Keys of `[[data]]` that do not go together, or would do nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from velatura.recipe.dump import dump_recipe
from velatura.recipe.toml import parse_recipe

Refusal = Callable[..., str]


@pytest.mark.parametrize(
    ("keys", "place", "what"),
    [
        ("resolution = [512, 1024]\nbucket_min = 768", "bucket_min", "received 768 with resolution = 512; allowed: at most 512"),
        ("resolution = [512, 1024]\nbucket_max = 768", "bucket_max", "received 768 with resolution = 1024; allowed: at least 1024"),
        ("resolution = 256\nbucket_step = 512", "bucket_step", "received 512 with resolution = 256; allowed: at most 256"),
        ("size = [512, 768]\nbucket_min = 640", "bucket_min", "received 640 with size = [512, 768]; allowed: at most 512"),
        ("buckets = false\nbucket_step = 32", "bucket_step", "buckets = false crops all images to squares"),
        ("keep_tags_separator = '|||'", "keep_tags_separator", "it would stay in the captions"),
        ("tag_warmup_min = 3", "tag_warmup_min", "without tag_warmup_steps"),
        ("caption_variants = 4\ntag_warmup_steps = 100", "caption_variants", "cannot be drawn ahead"),
        ("crops = 8", "crops", 'received 8 with crop = "centre"'),
        ("alpha = 'mask'\nmasks = 'masks'", "alpha", "received masks twice"),
        ("regularisation = true", "regularisation", "every table is of regularisation images"),
        ("size = [512, 768]\nbucket_max = 640", "bucket_max", "allowed: at least 768"),
        ("buckets = false\nupscale = 'own size'", "upscale", "no buckets of own sizes"),
    ],
)  # fmt: skip
def test_one_mistake(smallest: str, refusal: Refusal, keys: str, place: str, what: str) -> None:
    message = refusal(smallest.replace('folder = "photos"', f'folder = "photos"\n{keys}'))
    assert message.startswith("x.toml has 1 mistake\n")
    assert f"[[data]] number 1, {place}\n" in message
    assert what in message


@pytest.mark.parametrize(
    "keys",
    [
        "resolution = [512, 1024]\nbucket_min = 512\nbucket_max = 1024\nbucket_step = 512",
        "keep_tags_separator = '|||'\nshuffle_tags = true",
        "keep_tags = 2",
        "tag_warmup_min = 3\ntag_warmup_steps = 10",
        "crop = 'random'\ncrops = 8",
        "alpha = 'mask'",
        "size = [512, 768]\nbuckets = false",
        "upscale = 'own size'",
        "regularisation = true\n[[data]]\nfolder = 'y'",
    ],
)
def test_what_goes_together(smallest: str, keys: str) -> None:
    recipe = parse_recipe(smallest.replace('folder = "photos"', f'folder = "photos"\n{keys}'))
    assert parse_recipe(dump_recipe(recipe)) == recipe  # with every default named, it still goes together
