"""What the schema allows, in words: for error messages and for the reference."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from velatura.recipe.section import Section

_NOUNS = {int: ("an integer", "integers"), float: ("a number", "numbers"), str: ("text", "texts")}
_LIMITS = (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One section of the recipe; one of several where its `kind` or `family` chooses."""

    name: str  # "objective"
    repeated: bool  # [[data]]
    section: type[Section]
    tag: tuple[str, str] | None = None  # ("kind", "flow")

    @property
    def header(self) -> str:
        """The section's header in a file: `[objective]`, `[[data]]`."""
        return f"[[{self.name}]]" if self.repeated else f"[{self.name}]"

    @property
    def title(self) -> str:
        """The header, with the tag where there are several kinds: `[objective] kind = "flow"`."""
        return self.header if self.tag is None else f'{self.header} {self.tag[0]} = "{self.tag[1]}"'


def variants(root: type[Section]) -> Iterator[Variant]:
    """All sections of a recipe class, in order."""
    for name, field in root.model_fields.items():
        sections = sections_in(field.annotation)
        for section in sections:
            key = tag_key(field)
            tag = (key, str(section.model_fields[key].default)) if key else None
            yield Variant(name=name, repeated=is_repeated(field.annotation), section=section, tag=tag)


def sections_in(annotation: Any) -> tuple[type[Section], ...]:
    """The section classes inside an annotation, through `Annotated`, unions and lists."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return (annotation,)
    return tuple(section for part in get_args(annotation) for section in sections_in(part))


def tag_key(field: FieldInfo) -> str | None:
    """The key whose value chooses among several sections, `kind` or `family`; also inside a list."""
    inside = [mark for part in get_args(field.annotation) for mark in getattr(part, "__metadata__", ())]
    marks = [field, *(mark for mark in inside if isinstance(mark, FieldInfo))]
    return next((mark.discriminator for mark in marks if isinstance(mark.discriminator, str)), None)


def is_repeated(annotation: Any) -> bool:
    """True for a list of sections, `[[name]]` in a file."""
    return get_origin(annotation) is list and bool(sections_in(annotation))


def ordered_keys(section: type[Section]) -> list[str]:
    """The keys of a section: what chooses its kind, what must be given, all others."""
    fields = section.model_fields
    return sorted(fields, key=lambda name: (name not in ("family", "kind"), not fields[name].is_required()))


def choices(annotation: Any) -> tuple[str, ...]:
    """The texts that literals inside an annotation allow."""
    if get_origin(annotation) is Literal:
        return tuple(value for value in get_args(annotation) if isinstance(value, str))
    return tuple(choice for part in get_args(annotation) for choice in choices(part))


def allowed(field: FieldInfo) -> str:
    """What a key may be, as a phrase: `an integer, at least 1`."""
    phrase = _phrase(field.annotation, field.metadata, plural=False)
    return f"{phrase}, for example {listing(map(str, field.examples))}" if field.examples else phrase


def allowed_entry(field: FieldInfo) -> str:
    """What one entry of a key that holds a list may be."""
    parts = [field.annotation, *get_args(field.annotation)]
    entry = next((get_args(part)[0] for part in parts if get_origin(part) is list), field.annotation)
    return _phrase(entry, (), plural=False)


def received(value: Any) -> str:
    """What a user wrote, as a phrase: `the text "5"`."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return f"the integer {_short(str(value))}"
        case float():
            return f"the number {value!r}"
        case str():
            return f'the text "{_short(value)}"'
        case list():
            return f"the list {_short(str(value))}"
        case dict():
            return "a table"
        case _:
            return f"{type(value).__name__} {_short(str(value))}"


def listing(words: Iterable[str], last: str = "or") -> str:
    """`"a", "b" or "c"`."""
    quoted = [f'"{word}"' for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"


def _phrase(annotation: Any, metadata: Sequence[Any], *, plural: bool) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _phrase(args[0], [*_flat(args[1:]), *metadata], plural=plural)
    if origin is Literal:
        return listing(str(value) for value in args)
    if origin in (Union, types.UnionType):
        parts = [part for part in args if part is not type(None)]
        return ", or ".join(_phrase(part, metadata, plural=plural) for part in parts)
    if origin is list:
        return f"a list of {_entries(args[0])}{_length(metadata)}"
    if origin is dict:
        return "a table of values"
    if annotation is bool:
        return "true or false"
    if sections_in(annotation):
        return "a section"
    noun = _NOUNS[annotation][plural]
    filled = (
        ["not empty"]
        if annotation is str and any(getattr(item, "min_length", 0) for item in metadata)
        else []
    )
    return ", ".join([noun, *filled, *_limits(metadata)])


def _entries(annotation: Any) -> str:
    """`integers (each at least 16, at most 16384)`."""
    noun, comma, limits = _phrase(annotation, (), plural=True).partition(", ")
    return (
        f"{noun} (each {limits})" if comma and get_origin(annotation) is Annotated else noun + comma + limits
    )


def _flat(metadata: Iterable[Any]) -> list[Any]:
    """Constraints, also those that sit inside a nested `Field(...)`."""
    return [
        inner for item in metadata for inner in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]


def _limits(metadata: Sequence[Any]) -> list[str]:
    words = [
        f"{word} {getattr(item, name)}" for item in metadata for name, word in _LIMITS if hasattr(item, name)
    ]
    patterns = [item.pattern for item in metadata if getattr(item, "pattern", None)]
    return words + [f"matching {pattern}" for pattern in patterns]


def _length(metadata: Sequence[Any]) -> str:
    low = next((item.min_length for item in metadata if hasattr(item, "min_length")), 0)
    high = next((item.max_length for item in metadata if hasattr(item, "max_length")), None)
    if low == high:
        return f", exactly {low} of them"
    return f", at least {low} of them" * (low > 0) + (f", at most {high}" if high is not None else "")


def _short(text: str) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= 60 else f"{text[:57]}…"
