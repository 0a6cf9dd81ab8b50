"""Pictures that look the same: a perceptual hash of 64 bits, and a lookup that stays far from comparing all pairs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_EDGE = 32  # pixels of the picture whose frequencies are looked at
_BITS = 3  # so many bits of two hashes may differ: 4 bands, of which one must then be equal
_BANDS = 4
_NEIGHBOURS = 32  # in a band, each hash is compared with so many next ones: flat pictures crowd together
_LEVELS = 6.0  # of 255: how far two likenesses may be apart on average
_FLAT = 3.0  # standard deviation in levels below which a picture is like every other of its colour

_positions = (np.arange(_EDGE) + 0.5) * math.pi / _EDGE
_COSINES = np.cos(np.arange(8)[:, None] * _positions)  # the first 8 frequencies of a DCT-II


@dataclass(frozen=True, kw_only=True, slots=True)
class Likeness:
    """What a picture looks like from afar."""

    hash: int  # 64 bits; which of its 64 lowest frequencies are above their median
    small: bytes  # 16 x 16 grey values, which settle what the hash suspects


def likeness_of(grey: Image.Image) -> Likeness | None:
    """The likeness of a picture of mode L; None when there is next to nothing on it."""
    pixels = np.asarray(grey.resize((_EDGE, _EDGE), Image.Resampling.BOX), dtype=np.float64)
    if pixels.std() < _FLAT:
        return None
    waves = (_COSINES @ pixels @ _COSINES.T).ravel()
    bits = waves > np.median(waves[1:])
    small = grey.resize((16, 16), Image.Resampling.BOX)
    return Likeness(hash=int.from_bytes(np.packbits(bits).tobytes(), "big"), small=small.tobytes())


def alike(pictures: Sequence[Likeness | None]) -> list[list[int]]:
    """Groups of positions of pictures that look the same, each group and all groups in order.

    Time grows with the number of pictures, not with its square.
    """
    places = np.array([i for i, one in enumerate(pictures) if one is not None], dtype=np.int64)
    if len(places) < 2:
        return []
    known = [one for one in pictures if one is not None]
    hashes = np.array([one.hash for one in known], dtype=np.uint64)
    smalls = np.frombuffer(b"".join(one.small for one in known), np.uint8).reshape(len(known), -1)
    leaders = list(range(len(known)))

    def leader(i: int) -> int:
        while leaders[i] != i:
            leaders[i] = leaders[leaders[i]]
            i = leaders[i]
        return i

    for left, right in _pairs(hashes):
        near = np.abs(smalls[left].astype(np.int16) - smalls[right].astype(np.int16)).mean(1) <= _LEVELS
        for one, other in zip(left[near].tolist(), right[near].tolist(), strict=True):
            first, second = sorted((leader(one), leader(other)))
            leaders[second] = first
    groups: dict[int, list[int]] = defaultdict(list)
    for i, place in enumerate(places.tolist()):
        groups[leader(i)].append(place)
    return [group for group in groups.values() if len(group) > 1]


def _pairs(hashes: NDArray[np.uint64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions of pairs whose hashes differ in at most `_BITS` bits."""
    found = []
    for band in range(_BANDS):
        part = (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.lexsort((hashes, part))
        for distance in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            left, right = order[:-distance], order[distance:]
            together = part[left] == part[right]
            if not together.any():
                break
            left, right = left[together], right[together]
            close = np.bitwise_count(hashes[left] ^ hashes[right]) <= _BITS
            found.append((left[close], right[close]))
    return found
