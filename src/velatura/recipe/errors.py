"""From pydantic's errors to problems that name the place, the value, what is allowed and the nearest known key."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from velatura.recipe.aliases import ELSEWHERE
from velatura.recipe.lines import KeyPath
from velatura.recipe.problems import Inconsistent, Problem
from velatura.recipe.schema import (
    Variant,
    allowed,
    allowed_entry,
    choices,
    is_repeated,
    listing,
    ordered_keys,
    received,
    sections_in,
    tag_key,
    variants,
)
from velatura.recipe.section import Section

SHORT = {"memory": "24GiB"}  # sections that a text may stand for, with an example


def explain(error: ValidationError, root: type[Section]) -> list[Problem]:
    """All that is wrong, one problem per place: a value that fits no member of a union is one mistake."""
    found: dict[KeyPath, Problem] = {}
    for detail in error.errors(include_url=False):
        for problem in _problems(detail, root):
            found.setdefault(problem.path, problem)
    outer = {path[:length] for path in found for length in range(len(path))}
    return [problem for path, problem in found.items() if path not in outer]


def wanted_texts(error: ValidationError, root: type[Section]) -> set[KeyPath]:
    """The places where something else was found and only a text is allowed."""
    return {
        _Place(root, e["loc"]).path for e in error.errors(include_url=False) if e["type"] == "string_type"
    }


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word closest to what was written, also for names that other tools use; None when none is close."""
    if (alias := ELSEWHERE.get(word.lower())) in known:
        return alias
    close = difflib.get_close_matches(word.lower(), [name.lower() for name in known], n=1, cutoff=0.6)
    return next((name for name in known if [name.lower()] == close), None)


def _problems(detail: ErrorDetails, root: type[Section]) -> Iterator[Problem]:
    raised = detail.get("ctx", {}).get("error")
    if isinstance(raised, Inconsistent):
        yield from raised.problems
        return
    place = _Place(root, detail["loc"])
    value = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            yield Problem(path=place.path, what="unknown key", hint=_hint_for_unknown(place, root))
        case "missing":
            yield _missing(place)
        case "union_tag_invalid" | "union_tag_not_found":
            yield _wrong_tag(place, value)
        case "value_error":
            yield Problem(path=place.path, what=str(raised))
        case _:
            yield _wrong_value(place, value, detail["msg"])


class _Place:
    """A pydantic location walked through the schema: which key it is, without the names of union members."""

    def __init__(self, root: type[Section], location: tuple[str | int, ...]) -> None:
        self.path: KeyPath = ()
        self.section: type[Section] = root  # the section that holds, or should hold, the key
        self.field: FieldInfo | None = None
        inside: type[Section] | None = root
        for part in location:
            if isinstance(part, int):
                self.path += (part,)
            elif inside is not None:
                self.section, self.field = inside, inside.model_fields.get(part)
                self.path += (part,)
                inside = _only_section(self.field)
            elif self.field is not None and (tagged := _tagged(self.field, part)):
                inside = tagged

    @property
    def is_header(self) -> bool:
        return self.field is not None and bool(sections_in(self.field.annotation))


def _only_section(field: FieldInfo | None) -> type[Section] | None:
    """The section that a field holds, when no tag has to choose it."""
    sections = sections_in(field.annotation) if field else ()
    return sections[0] if field and len(sections) == 1 and not tag_key(field) else None


def _tagged(field: FieldInfo, tag: str | int) -> type[Section] | None:
    name = tag_key(field)
    sections = sections_in(field.annotation) if name else ()
    return next((section for section in sections if section.model_fields[str(name)].default == tag), None)


def _missing(place: _Place) -> Problem:
    assert place.field is not None
    name = place.path[-1]
    if is_repeated(place.field.annotation):
        what = f"the section [[{name}]] is missing"
    elif place.is_header:
        what = f"the section [{name}] is missing"
    else:
        what = f"the key {name} is missing; allowed: {allowed(place.field)}"
    return Problem(path=place.path, what=what, hint=place.field.description or "")


def _wrong_tag(place: _Place, value: Any) -> Problem:
    assert place.field is not None
    name = str(tag_key(place.field))
    known = [str(section.model_fields[name].default) for section in sections_in(place.field.annotation)]
    if not isinstance(value, dict) or name not in value:
        return Problem(path=(*place.path, name), what=f"the key {name} is missing; allowed: {listing(known)}")
    given = value[name]
    close = nearest(given, known) if isinstance(given, str) else None
    return Problem(
        path=(*place.path, name),
        what=f"received {received(given)}; allowed: {listing(known)}",
        hint=f'did you mean "{close}"?' if close else "",
    )


def _wrong_value(place: _Place, value: Any, message: str) -> Problem:
    if place.field is None:
        return Problem(path=place.path, what=f"received {received(value)}: {message}")
    if place.is_header:
        return Problem(path=place.path, what=_wrong_section(place, value))
    phrase = allowed_entry if isinstance(place.path[-1], int) else allowed
    what = f"received {received(value)}; allowed: {phrase(place.field)}"
    if isinstance(value, float) and not math.isfinite(value):
        what += ", and finite"
    close = nearest(value, choices(place.field.annotation)) if isinstance(value, str) else None
    return Problem(path=place.path, what=what, hint=f'did you mean "{close}"?' if close else "")


def _wrong_section(place: _Place, value: Any) -> str:
    name = place.path[0]
    if place.field is not None and is_repeated(place.field.annotation):
        if isinstance(value, dict):
            return f"one table; there may be several: write [[{name}]] with two brackets"
        if value == []:
            return f"no entry; at least one [[{name}]] is needed"
        return f"received {received(value)}; allowed: sections that begin with [[{name}]]"
    if isinstance(value, list):
        return f"several tables; there is only one: write [{name}] with one bracket"
    short = f', or a text such as "{SHORT[name]}"' if name in SHORT else ""
    return f"received {received(value)}; allowed: a section that begins with [{name}]{short}"


def _hint_for_unknown(place: _Place, root: type[Section]) -> str:
    key = str(place.path[-1])
    all_sections = list(variants(root))
    kinds = [variant for variant in all_sections if variant.name == place.path[0] and len(place.path) > 1]
    homes = [variant for variant in all_sections if key in variant.section.model_fields]
    known = list(place.section.model_fields)
    if (alias := ELSEWHERE.get(key.lower())) in known:
        return f"did you mean {alias}?"
    if here := [variant for variant in homes if variant in kinds]:
        return f"{key} belongs to {_either(here, all_sections)}"
    close = nearest(key, known)
    if key in root.model_fields and len(place.path) > 1:
        return f"{key} belongs at the top level, before the first section"
    if homes and not close:
        return f"{key} belongs in {_either(homes, all_sections)}"
    of_kinds = nearest(key, [name for kind in kinds for name in kind.section.model_fields])
    if of_kinds and of_kinds not in known:
        owners = [kind for kind in kinds if of_kinds in kind.section.model_fields]
        return f"did you mean {of_kinds}, of {_either(owners, all_sections)}?"
    if close:
        return f"did you mean {close}?"
    return _alias_elsewhere(key, all_sections) or f"known here: {', '.join(ordered_keys(place.section))}"


def _alias_elsewhere(key: str, all_sections: Sequence[Variant]) -> str:
    """A name that another tool uses for a key of another section."""
    ours = ELSEWHERE.get(key.lower(), "")
    homes = [variant for variant in all_sections if ours in variant.section.model_fields]
    return f"here that is {ours}, in {_either(homes, all_sections)}" if homes else ""


def _either(found: Sequence[Variant], all_sections: Sequence[Variant]) -> str:
    """Sections in words; where all kinds of one are meant, its header alone."""
    named = {one.name for one in all_sections if all(v in found for v in all_sections if v.name == one.name)}
    titles = list(dict.fromkeys(one.header if one.name in named else one.title for one in found))
    return titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} or {titles[-1]}"
