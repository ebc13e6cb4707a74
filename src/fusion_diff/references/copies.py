"""Micrographs that show the same pixels, whatever the files they come from, and references without copies."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.micrograph import storage
from fusion_diff.warn import warn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion_diff.micrograph import Micrograph
    from fusion_diff.references.reference import Reference

_GRID = 32
"""Approximate number of rows and columns that are compared before whole images are."""


def alike(micrographs: Sequence[Micrograph]) -> list[list[int]]:
    """Return the indices of micrographs that show the same pixels, in order, for each image that occurs repeatedly.

    Grey in three equal channels is grey, and levels in other units, as of 8 bits in 16, are the same levels. Most
    images already differ in a coarse grid of pixels, so the others are hashed only where it agrees.
    """
    found = [list(range(len(micrographs)))]
    for key in (_coarse, _whole):
        found = [members for group in found for members in _split(group, micrographs, key) if len(members) > 1]
    return sorted(found)


def without_copies(references: Sequence[Reference], repeated: Sequence[Sequence[int]]) -> tuple[Reference, ...]:
    """Keep one copy of each image of a class, at the place of the first: the first, or the one with a mark.

    Copies on both sides of a split would make the error estimates too optimistic.

    Args:
        references: the references.
        repeated: those that show the same pixels, from `alike`.

    Warns:
        UserWarning: a copy is left out.
    """
    kept = dict(enumerate(references))
    for places in repeated:
        first_of: dict[str, int] = {}
        for place in places:
            reference = references[place]
            first = first_of.setdefault(reference.label, place)
            if first == place:
                continue
            del kept[place]
            twin = dropped = kept[first]
            if twin.mark is None and reference.mark is not None:
                kept[first] = reference
            else:
                dropped = reference
            warn(f"{reference.name} is a copy of {twin.name}; {dropped.name} is left out of the set")
    return tuple(kept.values())


def _split(
    group: list[int], micrographs: Sequence[Micrograph], key: Callable[[Micrograph], Hashable]
) -> list[list[int]]:
    parts: dict[Hashable, list[int]] = {}
    for index in group:
        parts.setdefault(key(micrographs[index]), []).append(index)
    return list(parts.values())


def _coarse(micrograph: Micrograph) -> Hashable:
    grid = _grid(micrograph)
    return micrograph.shape[:2], _plain(grid, grid)


def _whole(micrograph: Micrograph) -> Hashable:
    digest, grid = hashlib.sha256(), _grid(micrograph)
    for rows in storage.bands(micrograph.shape[:2]):
        digest.update(_plain(micrograph.window(rows.start, 0, rows.stop - rows.start, micrograph.width), grid))
    return digest.digest()


def _grid(micrograph: Micrograph) -> NDArray[np.float32]:
    # As float32, in which they are judged: stored dtypes and byte orders may differ.
    step = max(1, math.isqrt(micrograph.height * micrograph.width) // _GRID)
    return storage.sampled(micrograph.levels, step).astype(np.float32)


def _plain(pixels: NDArray[np.float32], grid: NDArray[np.float32]) -> bytes:
    """Return pixels as bytes: in one channel if all are equal, and in units of the span of the coarse grid."""
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    plain: NDArray[np.float32] = (pixels - grid.min()) / (np.ptp(grid) or np.float32(1))
    return plain.tobytes()
