"""Thumbnails of micrographs of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.micrograph.storage import BAND_PIXELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion_diff.micrograph.micrograph import Micrograph


def thumbnail(micrograph: Micrograph, max_side: int) -> NDArray[np.uint8]:
    """Return a micrograph reduced by averaging and stretched from its `contrast_range` to 0…255.

    The micrograph is read in bands, so it may be larger than memory. It is never enlarged.

    Returns:
        uint8 (h, w), or (h, w, 3) for a colour micrograph.
    """
    factor = min(1.0, max_side / max(micrograph.height, micrograph.width))
    height, width = max(1, round(micrograph.height * factor)), max(1, round(micrograph.width * factor))
    rows, columns = _edges(height, micrograph.height), _edges(width, micrograph.width)
    low, high = micrograph.contrast_range
    shape = (height, width) if micrograph.channels == 1 else (height, width, micrograph.channels)
    out = np.empty(shape, dtype=np.uint8)
    step = max(1, int(BAND_PIXELS / micrograph.width * factor))  # rows of the thumbnail a band
    for first in range(0, height, step):
        edges = rows[first : first + step + 1]
        band = micrograph.window(int(edges[0]), 0, int(edges[-1] - edges[0]), micrograph.width)
        sums = np.add.reduceat(band, edges[:-1] - edges[0], axis=0, dtype=np.float64)
        sums = np.add.reduceat(sums, columns[:-1], axis=1)
        counts = np.diff(edges)[:, None] * np.diff(columns)[None, :]
        mean = sums / (counts if sums.ndim == 2 else counts[:, :, None])
        level = ((mean - low) / (high - low)).clip(0, 1)
        out[first : first + step] = np.rint(level * 255).astype(np.uint8)
    return out


def _edges(parts: int, side: int) -> NDArray[np.intp]:
    return (np.arange(parts + 1) * side // parts).astype(np.intp)
