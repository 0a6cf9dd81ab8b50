"""What files of EveryDream2 say about an image: its caption, and how it is used; one layer over another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from velatura.data.sources.lookup import UnusableError
from velatura.data.sources.plain_yaml import described
from velatura.data.text.captions import tidy

Tag = tuple[str, float]

_TRUTHS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
MAX_DEPTH = 20
_DEFAULT_GROUP = "default_batch"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    """One layer, or several merged. None: nothing is said."""

    main_prompts: tuple[str, ...] = ()  # the first one counts
    tags: tuple[Tag, ...] = ()  # with weights
    rating: float | None = None
    max_caption_length: int | None = None  # characters
    multiply: float | None = None  # uses per epoch
    cond_dropout: float | None = None  # probability of an empty caption
    flip_p: float | None = None
    loss_scale: float | None = None
    shuffle_tags: bool | None = None
    batch_id: str | None = None  # "" is the group of all that have none

    @classmethod
    def of(cls, *, main_prompts: Sequence[str], tags: Sequence[Sequence[Any]], **others: Any) -> ImageConfig:
        """A layer from JSON, which knows lists only."""
        pairs = tuple((str(tag), float(weight)) for tag, weight in tags)
        return cls(main_prompts=tuple(main_prompts), tags=pairs, **others)

    def over(self, base: ImageConfig) -> ImageConfig:
        """This layer over a lower one: its values count, its prompts and tags come first."""
        if base == _NOTHING:
            return self
        merged: dict[str, Any] = {}
        for name in _NAMES:
            mine, below = getattr(self, name), getattr(base, name)
            if isinstance(mine, tuple):
                merged[name] = tuple(dict.fromkeys((*mine, *below)))
            else:
                merged[name] = below if mine is None else mine
        return ImageConfig(**merged)


_NOTHING = ImageConfig()
_NAMES = tuple(field.name for field in fields(ImageConfig))


def from_text(text: str) -> ImageConfig:
    """A caption as it stands in a text file or a file's name: the main prompt, then tags, between commas."""
    parts = [part for part in (part.strip() for part in _one_line(text).split(",")) if part]
    return ImageConfig(
        main_prompts=tuple(parts[:1]), tags=tuple((tag, 1.0) for tag in dict.fromkeys(parts[1:]))
    )


def from_table(said: object, depth: int = 0) -> tuple[ImageConfig, list[str]]:
    """What a YAML file or an entry of a manifest says, and its keys that are not known.

    `said` is plain data; numbers and truth values may be texts. Captions may be such tables themselves, to a depth of
    MAX_DEPTH. Raises UnusableError.
    """
    if depth > MAX_DEPTH:
        raise UnusableError(f"caption: more than {MAX_DEPTH} tables inside each other")
    if said is None:
        return _NOTHING, []
    if not isinstance(said, dict):
        raise UnusableError(f"received {described(said)}; allowed is a table of {', '.join(_READERS)}")
    unknown = [key for key in said if key not in _READERS and key != "caption"]
    values = {_READERS[key][0]: value_of(key, value) for key, value in said.items() if key in _READERS}
    config = ImageConfig(**{name: value for name, value in values.items() if value is not None})
    caption = said.get("caption")
    if isinstance(caption, str):
        return from_text(caption).over(config), unknown
    inner, more = from_table(caption, depth + 1)
    return inner.over(config), unknown + more


def value_of(key: str, value: object) -> Any:
    """The value of one key, checked; None says nothing. Raises UnusableError."""
    if value is None:
        return None
    try:
        return _READERS[key][1](value)
    except UnusableError as error:
        raise UnusableError(f"{key}: received {error}") from None


def _one_line(text: str) -> str:
    return " ".join(tidy(text).split("\n"))


def _prompts(value: object) -> tuple[str, ...]:
    prompts = value if isinstance(value, list) else [value]
    return tuple(text for text in map(_text, prompts) if text)


def _tags(value: object) -> tuple[Tag, ...]:
    if not isinstance(value, list):
        raise UnusableError(f"{described(value)}; allowed is a list of tags")
    return tuple(dict.fromkeys(tag for tag in map(_tag, value) if tag[0]))


def _tag(value: object) -> Tag:
    if not isinstance(value, dict):
        return _text(value), 1.0
    if "tag" not in value or set(value) - {"tag", "weight"}:
        raise UnusableError(f"a tag with the keys {', '.join(value)}; allowed are tag and weight")
    weight = value.get("weight")
    return _text(value["tag"]), 1.0 if weight is None else _number(weight, low=0)


def _text(value: object) -> str:
    if isinstance(value, list | dict):
        raise UnusableError(f"{described(value)} in place of a text")
    return "" if value is None else _one_line(str(value))


def _number(value: object, *, low: float, high: float = math.inf, open_end: bool = False) -> float:
    limit = f"{'more than' if open_end else 'at least'} {low:g}" + (
        f", at most {high:g}" if high < math.inf else ""
    )
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high or number == math.inf or (open_end and number == low):
        raise UnusableError(f"{described(value)}; allowed is a number, {limit}")
    return number


def _count(value: object) -> int:
    number = _number(value, low=1)
    if number != int(number):
        raise UnusableError(f"{described(value)}; allowed is a whole number, at least 1")
    return int(number)


def _truth(value: object) -> bool:
    found = value if isinstance(value, bool) else _TRUTHS.get(str(value).strip().lower())
    if found is None:
        raise UnusableError(f"{described(value)}; allowed: true or false")
    return found


def _group(value: object) -> str | None:
    name = _text(value)
    return "" if name == _DEFAULT_GROUP else name or None


_share = partial(_number, low=0, high=1)
_READERS: Mapping[str, tuple[str, Callable[[object], Any]]] = {  # key -> field, how it is read
    "main_prompt": ("main_prompts", _prompts),
    "tags": ("tags", _tags),
    "rating": ("rating", partial(_number, low=0)),
    "max_caption_length": ("max_caption_length", _count),
    "multiply": ("multiply", partial(_number, low=0)),
    "cond_dropout": ("cond_dropout", _share),
    "flip_p": ("flip_p", _share),
    "loss_scale": ("loss_scale", partial(_number, low=0, open_end=True)),
    "shuffle_tags": ("shuffle_tags", _truth),
    "batch_id": ("batch_id", _group),
}
