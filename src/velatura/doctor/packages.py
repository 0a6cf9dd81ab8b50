"""Python and the installed packages: whether they are the ones that are asked for, and fit each other."""

from __future__ import annotations

import importlib
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import velatura
from velatura.doctor.check import Check
from velatura.plural import counted

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

OLDEST_PYTHON = (3, 11)
# diffusers and transformers import these just because they are installed, so their faults are ours
COMPANIONS = (
    "torchvision",
    "torchao",
    "bitsandbytes",
    "xformers",
    "flash-attn",
    "accelerate",
    "peft",
    "triton",
)
TESTED = Path(velatura.__file__).parents[2] / "constraints.txt"  # there in a checkout of the source only


def packages() -> Iterator[Check]:
    """Checks of Python, of versions, and of pairs that are known not to work."""
    yield _python()
    yield _versions()
    yield from _tested()
    yield from _torchvision()


def _python() -> Check:
    found = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info >= OLDEST_PYTHON:
        return Check(name="python", found=found)
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return Check(
        name="python",
        level="problem",
        found=found,
        remedy=f"install Python {oldest} or newer, and velatura in it",
    )


def _versions() -> Check:
    """Our own requirements, and those of what we require: an upgrade of one package often leaves another behind."""
    try:
        direct = list(requirements("velatura"))
    except metadata.PackageNotFoundError:
        return Check(
            name="packages",
            level="remark",
            found="velatura itself is not installed, so versions cannot be checked",
            remedy="install it: python -m pip install velatura, or -e . in a checkout",
        )
    except ImportError:
        return Check(
            name="packages",
            level="problem",
            found="the package `packaging` is missing, which transformers needs too",
            remedy="python -m pip install packaging, then run this again",
        )
    owners = ["velatura", *(name for name in (*direct, *COMPANIONS) if installed(name))]
    unmet = list(dict.fromkeys(line for owner in owners for line in unmet_by(owner)))
    if not unmet:
        fitting = counted(len(direct), "package")
        return Check(name="packages", found=f"{fitting} as velatura and they themselves ask for")
    return Check(
        name="packages",
        level="problem",
        found="; ".join(unmet),
        remedy="python -m pip install --upgrade velatura (or `make setup` in a checkout) puts its own right; "
        "what another package asks for is put right by upgrading both",
    )


def _tested() -> Iterator[Check]:
    """In a checkout: what differs from the set that the tests run with."""
    if not TESTED.is_file():
        return
    tested = dict(re.findall(r"^([\w.-]+)==([\w.]+)", TESTED.read_text(encoding="utf-8"), re.MULTILINE))
    other = [
        f"{name} {found} ({tested[name]})"
        for name in requirements("velatura")
        if name in tested and (found := installed(name)) and found.partition("+")[0] != tested[name]
    ]
    if other:
        yield Check(
            name="tested versions",
            level="remark",
            found=f"not those of constraints.txt: {', '.join(other)}",
            remedy="nothing, while all works; else python -m pip install -c constraints.txt -e .",
        )


def _torchvision() -> Iterator[Check]:
    """Built for another torch it does not load, and takes diffusers and transformers down with it."""
    if not installed("torchvision"):
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        yield Check(
            name="torchvision",
            level="problem",
            found=f"does not load beside this torch, and diffusers and transformers will fail with it: {error}",
            remedy="python -m pip uninstall torchvision (velatura needs none), or install the build for this torch",
        )


def requirements(owner: str) -> Iterable[str]:
    """The names of what a package requires here. Raises PackageNotFoundError; ImportError without `packaging`."""
    return [name for name, _ in _required(owner)]


def unmet_by(owner: str) -> Iterator[str]:
    """A line for each package that is missing or of another version than `owner` asks for."""
    for name, wanted in _required(owner):
        found = installed(name)
        if found is None:
            yield f"{name} is missing ({owner} asks for it{f': {wanted}' if str(wanted) else ''})"
        elif not wanted.contains(found, prereleases=True):
            yield f"{name} {found} ({owner} asks for {wanted})"


def _required(owner: str) -> Iterator[tuple[str, SpecifierSet]]:
    from packaging.requirements import Requirement

    for line in metadata.requires(owner) or ():
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            yield wanted.name, wanted.specifier


def installed(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
