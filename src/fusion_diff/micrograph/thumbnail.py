"""Thumbnails of micrographs of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.micrograph import storage

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
    sums = np.zeros((height, width, *micrograph.shape[2:]))
    for band in storage.bands(micrograph.shape):
        first, last = np.searchsorted(rows, [band.start, band.stop - 1], side="right") - 1  # rows of the thumbnail
        edges = np.maximum(rows[first : last + 1] - band.start, 0)
        pixels = micrograph.window(band.start, 0, band.stop - band.start, micrograph.width)
        part = np.add.reduceat(pixels, edges, axis=0, dtype=np.float64)
        sums[first : last + 1] += np.add.reduceat(part, columns[:-1], axis=1)
    counts = np.diff(rows)[:, None] * np.diff(columns)[None, :]
    mean = sums / (counts if sums.ndim == 2 else counts[:, :, None])
    level: NDArray[np.float64] = ((mean - low) / (high - low)).clip(0, 1)
    return np.rint(level * 255).astype(np.uint8)


def _edges(parts: int, side: int) -> NDArray[np.intp]:
    return (np.arange(parts + 1) * side // parts).astype(np.intp)
