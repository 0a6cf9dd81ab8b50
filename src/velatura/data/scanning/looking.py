"""What the files of a record hold: known from an earlier scan, or read and checked now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from velatura.data.items import Companion, Role
from velatura.data.places import Place
from velatura.data.scanning.probe import BadImageError, Probe, check_pixels, image_bytes, image_stamp, probe
from velatura.data.scanning.remembered import Remembered
from velatura.data.sources.record import Record
from velatura.data.text.captions import Caption, read_caption
from velatura.plural import counted

MAX_CAPTION = 2**20  # characters; what encoders read are hundreds
_SAME_RATIO = 0.01  # how far a companion's aspect ratio may be from its image's


class _UnknownError(Exception):
    """A file must be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """The image, caption and companions of a record, all of them sound."""

    image: Probe
    caption: Caption
    companions: dict[Role, Companion]


@dataclass(frozen=True, kw_only=True, slots=True)
class Looker:
    """Looks at the records of one source; may be used by several threads.

    `thorough` decodes every pixel; images of more than `max_pixels` are refused.
    """

    known: Remembered
    thorough: bool
    max_pixels: int
    base: Path  # where the recipe's relative paths start

    def recall(self, record: Record) -> Looked | None:
        """What is known of a record; None when one of its files must be read, or is gone."""
        try:
            return self._look(record, self._recalled_probe, self._recalled_caption)
        except (_UnknownError, BadImageError, OSError):
            return None

    def look(self, record: Record) -> Looked | str:
        """What a record's files hold, or the reason why it cannot be used."""
        try:
            return self._look(record, self._probe, self._caption)
        except BadImageError as error:
            return str(error)

    def _look(
        self, record: Record, probed: Callable[[Place], Probe], captioned: Callable[[Place], Caption]
    ) -> Looked:
        image = probed(record.image)
        check_pixels((image.width, image.height), self.max_pixels)
        companions = {
            role: self._companion(role, place, image, probed) for role, place in record.companions.items()
        }
        place = record.caption_place
        caption = record.caption if place is None else captioned(place)
        _check_caption(caption)
        return Looked(image=image, caption=caption, companions=companions)

    def _companion(
        self, role: Role, place: Place, image: Probe, probed: Callable[[Place], Probe]
    ) -> Companion:
        try:
            found = probed(place)
            check_pixels((found.width, found.height), self.max_pixels)
        except BadImageError as error:
            raise BadImageError(f"its {role} image {self._name(place)}: {error}") from None
        ratio = found.width * image.height / (found.height * image.width)
        if abs(ratio - 1) > _SAME_RATIO and role != "reference":
            raise BadImageError(
                f"its {role} image {self._name(place)} is {found.width}x{found.height} and does not fit "
                f"{image.width}x{image.height}"
            )
        return Companion(place=place, content=found.content, width=found.width, height=found.height)

    def _recalled_probe(self, place: Place) -> Probe:
        found = None
        if self.known.has_image(place.key):  # asked first: that costs less than a look at the file
            found = self.known.probe(place.key, place.stamp(), thorough=self.thorough)
        if found is None:
            raise _UnknownError
        return found

    def _recalled_caption(self, place: Place) -> Caption:
        found = self.known.caption(place.key, place.stamp())
        if found is None:
            raise _UnknownError
        return found

    def _probe(self, place: Place) -> Probe:
        """What is known of an image, or what its bytes say. Raises BadImageError with the reason."""
        stamp = image_stamp(place)
        found = self.known.probe(place.key, stamp, thorough=self.thorough)
        if found is None:
            found = probe(image_bytes(place), thorough=self.thorough, max_pixels=self.max_pixels)
            self.known.keep(place.key, stamp, found, thorough=self.thorough)
        return found

    def _caption(self, place: Place) -> Caption:
        try:
            stamp = place.stamp()
            caption = self.known.caption(place.key, stamp)
            if caption is None:
                if stamp[0] > 4 * MAX_CAPTION:  # no character of UTF-8 has more bytes
                    raise ValueError(f"has {stamp[0]:,} bytes; allowed are {MAX_CAPTION:,} characters")
                caption = read_caption(place.read())
                self.known.keep(place.key, stamp, caption)
        except ValueError as error:  # what is there is no text
            raise BadImageError(f"its caption {self._name(place)} {error}") from None
        except OSError as error:
            raise BadImageError(
                f"its caption {self._name(place)} cannot be read: {error.strerror or error}"
            ) from None
        return caption

    def _name(self, place: Place) -> str:
        """A file as the recipe's author would write it."""
        return place.key.removeprefix(f"{self.base}/")


def _check_caption(caption: Caption) -> None:
    """Raise BadImageError for what a file, a table or a file's name may hold, and no encoder takes."""
    for text in (caption.text, *(tag for tag, _ in caption.tags)):
        if len(text) > MAX_CAPTION:
            raise BadImageError(
                f"its caption has {counted(len(text), 'character')}; allowed are {MAX_CAPTION:,}"
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadImageError(
                "its caption holds half a character (a lone surrogate); write it anew"
            ) from None
