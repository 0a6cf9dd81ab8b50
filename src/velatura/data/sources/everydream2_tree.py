"""A folder tree of EveryDream2: its images, and the layers of files that say something about them.

From the lowest layer to the highest: `global.yaml` of the folder and of those above it, `local.yaml` and the files of
one value (this folder only), the files beside an image.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from velatura.data.images import EXTENSIONS
from velatura.data.places import FilePlace
from velatura.data.scanning.listings import Listings
from velatura.data.sources.everydream2_config import ImageConfig, from_table, from_text, value_of
from velatura.data.sources.listing import is_folder
from velatura.data.sources.lookup import UnusableError
from velatura.data.sources.plain_yaml import read_yaml
from velatura.data.text.captions import Origin, decode_text
from velatura.errors import DataError

IMAGES = EXTENSIONS | {".jfif"}
_TEXTS = (".txt", ".caption")
_BESIDE = (*_TEXTS, ".yml", ".yaml")  # an image's own files; later ones count more
_RECURSIVE = ("global.yaml", "global.yml")
_LOCAL = (
    "multiply.txt", "cond_dropout.txt", "flip_p.txt", "local.yaml", "local.yml", "batch_id.txt", "loss_scale.txt",
    "shuffle_tags.txt",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """An image, and what files say about it."""

    name: str  # as the recipe's author would write it
    place: FilePlace
    config: ImageConfig
    origin: Origin = "none"


@dataclass(kw_only=True)
class Findings:
    """The images of a tree or a manifest, in order, and what was remarked on the way."""

    images: list[Described] = field(default_factory=list)
    unusable: list[tuple[str, str]] = field(default_factory=list)  # name and reason
    unknown: dict[str, list[str]] = field(default_factory=dict)  # key -> the files that have it
    packed: list[str] = field(default_factory=list)  # zip files
    orphans: list[str] = field(default_factory=list)  # captions without an image
    hidden: int = 0

    def remark_unknown(self, keys: Iterable[str], name: str) -> None:
        """Remember keys that were not read."""
        for key in keys:
            self.unknown.setdefault(key, []).append(name)


def read_tree(root: Path, name: str, known: Listings) -> Findings:
    """All images below a folder, in order of name; hidden files and folders are left out.

    What a YAML file says is kept in `known`: of 10,000 of them, parsing takes most of the time.
    Raises DataError for a file of a whole folder that cannot be used; an image whose own file cannot be is unusable.
    """
    tree = _Tree(name.rstrip("/"), known)
    tree.read(str(root), "", ImageConfig(), {os.path.realpath(root)})
    return tree.found


class _Tree:
    def __init__(self, name: str, known: Listings) -> None:
        self._name = name
        self._known = known
        self.found = Findings()

    def read(self, folder: str, prefix: str, inherited: ImageConfig, above: set[str]) -> None:
        """One folder and those below it; each real folder is entered once, so links cannot loop."""
        files, folders = self._list(folder, prefix)
        inherited = self._layers(_RECURSIVE, files, prefix, inherited)
        local = self._layers(_LOCAL, files, prefix, inherited)
        self._images(files, prefix, local)
        for name, path in folders.items():
            real = os.path.realpath(path)
            if real not in above:
                above.add(real)
                self.read(path, f"{prefix}{name}/", inherited, above)

    def _list(self, folder: str, prefix: str) -> tuple[dict[str, str], dict[str, str]]:
        """The visible files and folders in a folder, by name, in order."""
        files: dict[str, str] = {}
        folders: dict[str, str] = {}
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda found: found.name):
                    if entry.name.startswith("."):
                        self.found.hidden += 1
                    else:
                        (folders if is_folder(entry) else files)[entry.name] = entry.path
        except OSError as error:
            raise DataError(f"data folder '{folder}' cannot be read: {error.strerror or error}.") from error
        self.found.packed += [self._named(prefix + name) for name in files if name.lower().endswith(".zip")]
        return files, folders

    def _layers(
        self, names: Iterable[str], files: Mapping[str, str], prefix: str, base: ImageConfig
    ) -> ImageConfig:
        for name in names:
            if name in files:
                try:
                    base = self._layer(files[name], prefix + name).over(base)
                except UnusableError as error:
                    raise DataError(f"{self._named(prefix + name)}: {error}. Correct or remove it.") from None
        return base

    def _layer(self, path: str, relative: str) -> ImageConfig:
        """What a file of a folder says: a YAML file many things, a text file the one that it is named for."""
        key, suffix = posixpath.splitext(posixpath.basename(relative))
        if suffix != ".txt":
            return self._yaml(path, relative)[0]
        text, _ = _read(path)
        if key == "shuffle_tags":
            return ImageConfig(shuffle_tags=True)  # it is there; what is in it does not count
        if not text.strip():
            raise UnusableError("is empty")
        return ImageConfig(**{key: value_of(key, text.strip())})

    def _images(self, files: Mapping[str, str], prefix: str, local: ImageConfig) -> None:
        """Describe the images among the files of a folder."""
        beside = _files_beside(files)
        described: set[str] = set()
        for name, path in files.items():
            stem, suffix = posixpath.splitext(name)
            if suffix.lower() not in IMAGES:
                continue
            described.add(stem)
            own = [beside[stem, ending] for ending in _BESIDE if (stem, ending) in beside]
            try:
                config, origin = self._own({prefix + one: files[one] for one in own}, local)
            except UnusableError as error:
                self.found.unusable.append((self._named(prefix + name), str(error)))
                continue
            self.found.images.append(
                Described(
                    name=self._named(prefix + name), place=FilePlace(path), config=config, origin=origin
                )
            )
        alone = [name for (stem, _), name in beside.items() if stem not in described]
        self.found.orphans += [self._named(prefix + name) for name in alone]

    def _own(self, files: Mapping[str, str], config: ImageConfig) -> tuple[ImageConfig, Origin]:
        """What the files beside an image say over `config`, and whether the encoding of one was guessed."""
        origin: Origin = "file" if files else "none"
        for relative, path in files.items():
            try:
                if posixpath.splitext(relative)[1].lower() in _TEXTS:
                    text, read_as = _read(path)
                    told = from_text(text)
                else:
                    told, read_as = self._yaml(path, relative)
            except UnusableError as error:
                raise UnusableError(f"its file {self._named(relative)}: {error}") from None
            config = told.over(config)
            origin = "guessed" if read_as == "guessed" else origin
        return config, origin

    def _yaml(self, path: str, relative: str) -> tuple[ImageConfig, Origin]:
        name = self._named(relative)

        def read(path: str) -> dict[str, Any]:
            text, origin = _read(path)
            config, unknown = from_table(read_yaml(text, name))
            return {"config": asdict(config), "unknown": unknown, "origin": origin}

        try:
            listing = self._known.of(path, read)
        except OSError as error:
            raise UnusableError(f"cannot be read: {error.strerror or error}") from None
        self.found.remark_unknown(listing["unknown"], name)
        return ImageConfig.of(**listing["config"]), listing["origin"]

    def _named(self, relative: str) -> str:
        return f"{self._name}/{relative}"


def _files_beside(files: Iterable[str]) -> dict[tuple[str, str], str]:
    """Files that may belong to an image, by stem and ending."""
    found: dict[tuple[str, str], str] = {}
    for name in files:
        stem, suffix = posixpath.splitext(name)
        if suffix.lower() in _BESIDE and name not in _RECURSIVE and name not in _LOCAL:
            found.setdefault((stem, suffix.lower()), name)
    return found


def _read(path: str) -> tuple[str, Origin]:
    try:
        with open(path, "rb") as file:
            return decode_text(file.read())
    except OSError as error:
        raise UnusableError(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UnusableError(str(error)) from None
