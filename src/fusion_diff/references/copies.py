"""Micrographs that show the same pixels, whatever the files they come from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.micrograph import storage

if TYPE_CHECKING:
    from fusion_diff.micrograph import Micrograph

_GRID = 32
"""Approximate number of rows and columns that are compared before whole images are."""


def alike(micrographs: Sequence[Micrograph]) -> list[list[int]]:
    """Return the indices of micrographs with equal shape and pixels, in order, for each image that occurs repeatedly.

    Most images already differ in a coarse grid of pixels, so the others are hashed only where it agrees.
    """
    found = [list(range(len(micrographs)))]
    for key in (_coarse, _whole):
        found = [members for group in found for members in _split(group, micrographs, key) if len(members) > 1]
    return sorted(found)


def _split(
    group: list[int], micrographs: Sequence[Micrograph], key: Callable[[Micrograph], Hashable]
) -> list[list[int]]:
    parts: dict[Hashable, list[int]] = {}
    for index in group:
        parts.setdefault(key(micrographs[index]), []).append(index)
    return list(parts.values())


def _coarse(micrograph: Micrograph) -> Hashable:
    step = max(1, math.isqrt(micrograph.height * micrograph.width) // _GRID)
    return micrograph.shape, storage.sampled(micrograph.levels, step).astype(np.float32).tobytes()


def _whole(micrograph: Micrograph) -> Hashable:
    digest = hashlib.sha256()
    for rows in storage.bands(micrograph.shape):
        # As float32, in which they are judged: stored dtypes and byte orders may differ.
        digest.update(micrograph.window(rows.start, 0, rows.stop - rows.start, micrograph.width).tobytes())
    return digest.digest()
