"""Tiles: division of a micrograph of any size into tiles for the encoder, and assembly of their tokens into one grid.

Tiles overlap, but each token is taken only from the tile in which it lies farthest from the edge. The tokens of a
micrograph thus form one grid, statistics over it count every place once, and tiles are processed independently.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.micrograph.splines import spline_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fusion_diff.micrograph.micrograph import Micrograph

MARGIN = 2
"""Tokens at each inner edge of a tile that are taken from its neighbour."""


@dataclass(frozen=True)
class Tile:
    """A tile and its kept part, in tokens; spans exclude their last index.

    Attributes:
        top: first row of the tile on the micrograph's token grid.
        left: first column.
        rows: span of grid rows taken from this tile.
        columns: span of grid columns taken from this tile.
    """

    top: int
    left: int
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def inside(self) -> tuple[slice, slice]:
        """The kept part, relative to the tile."""
        return (
            slice(self.rows[0] - self.top, self.rows[1] - self.top),
            slice(self.columns[0] - self.left, self.columns[1] - self.left),
        )


@dataclass(frozen=True)
class Grid:
    """The token grid of a micrograph.

    Attributes:
        rows: tokens from top to bottom.
        columns: tokens from left to right.
        scale: tokens per native pixel: 1/stride, or more if the shorter side was enlarged to a whole tile.
        side: tokens along the side of a tile.
        stride: working pixels per token.
    """

    rows: int
    columns: int
    scale: float
    side: int
    stride: int

    @classmethod
    def of(cls, height: int, width: int, *, tile: int, stride: int) -> Grid:
        """Lay out the grid of a micrograph of `height` x `width` native pixels for tiles of `tile` working pixels."""
        enlarge = max(1.0, tile / min(height, width))
        rows, columns = (max(tile // stride, math.ceil(side * enlarge / stride - 1e-6)) for side in (height, width))
        return cls(rows, columns, enlarge / stride, tile // stride, stride)

    @property
    def enlargement(self) -> float:
        """Working pixels per native pixel, at least 1."""
        return self.scale * self.stride

    def tiles(self) -> Iterator[Tile]:
        """Yield the tiles row by row. Their kept parts partition the grid."""
        for top, rows in _cuts(self.rows, self.side):
            for left, columns in _cuts(self.columns, self.side):
                yield Tile(top, left, rows, columns)

    def read(self, micrograph: Micrograph, tile: Tile) -> NDArray[np.float32]:
        """Read the pixels of a tile, stretched over the micrograph's `contrast_range`.

        Returns:
            float32 (3, T, T) in [0, 1], with T the tile side in working pixels. Beyond the edge, the last pixels are
            repeated.
        """
        pixels = self.side * self.stride
        low, high = micrograph.contrast_range
        enlarge = self.enlargement
        rows = _sources(tile.top * self.stride, pixels, enlarge, micrograph.height)
        columns = _sources(tile.left * self.stride, pixels, enlarge, micrograph.width)
        if enlarge == 1.0:
            first_row, first_column = int(rows[0]), int(columns[0])
            window = micrograph.window(
                first_row, first_column, int(rows[-1]) - first_row + 1, int(columns[-1]) - first_column + 1
            )
            pad = (pixels - window.shape[0], pixels - window.shape[1])
            if any(pad):
                window = np.pad(
                    window, ((0, pad[0]), (0, pad[1]), *(((0, 0),) if window.ndim == 3 else ())), mode="edge"
                )
        else:
            window = _resample(micrograph, rows, columns)
        stretched = np.clip((window - np.float32(low)) / np.float32(high - low), 0, 1)
        if stretched.ndim == 2:
            return np.broadcast_to(stretched, (3, pixels, pixels)).copy()
        return np.ascontiguousarray(np.moveaxis(stretched, 2, 0))

    def pool_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the tokens, bool (rows, columns), of which a mask (H, W) of native pixels covers at least a fifth."""
        height, width = mask.shape
        row = np.minimum((np.arange(height) + 0.5) * self.scale, self.rows - 1).astype(np.intp)
        column = np.minimum((np.arange(width) + 0.5) * self.scale, self.columns - 1).astype(np.intp)
        edges = np.searchsorted(row, np.arange(self.rows + 1))  # token row r has the pixel rows edges[r]:edges[r + 1]
        hits = np.stack(
            [np.bincount(column, mask[top:bottom].sum(axis=0), self.columns) for top, bottom in pairwise(edges)]
        )
        area = np.outer(np.diff(edges), np.bincount(column, minlength=self.columns))
        covered: NDArray[np.bool_] = hits >= 0.2 * np.maximum(area, 1)
        # If a thinner flaw covers no token that far, the tokens with the most marked pixels are returned.
        return covered if covered.any() or not mask.any() else hits == hits.max()


def _cuts(count: int, side: int) -> list[tuple[int, tuple[int, int]]]:
    """Return (first token, kept span) of each tile along one axis."""
    step = side - 2 * MARGIN
    starts = [*range(0, count - side, step), count - side]
    ends = [start + side - MARGIN for start in starts[:-1]] + [count]
    return [(start, (begin, end)) for start, begin, end in zip(starts, [0, *ends[:-1]], ends, strict=True)]


def _sources(first: int, count: int, enlarge: float, limit: int) -> NDArray[np.float64]:
    """Return the positions of the centres of working pixels in native pixels, clipped to the micrograph."""
    positions = (np.arange(first, first + count) + 0.5) / enlarge - 0.5
    return np.clip(positions, 0, limit - 1)


def _resample(micrograph: Micrograph, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float32]:
    """Interpolate a micrograph with cubic splines at the crossings of `rows` and `columns`."""
    reach = 6  # native pixels beyond the window that still affect the spline noticeably
    top, left = (max(0, int(axis[0]) - reach) for axis in (rows, columns))
    bottom = min(micrograph.height, int(rows[-1]) + 1 + reach)
    right = min(micrograph.width, int(columns[-1]) + 1 + reach)
    window = micrograph.window(top, left, bottom - top, right - left)
    down, across = spline_weights(rows - top, bottom - top), spline_weights(columns - left, right - left)
    planes = window[..., None] if window.ndim == 2 else window
    resampled = np.stack([down @ planes[..., c] @ across.T for c in range(planes.shape[2])], axis=2)
    return (resampled if window.ndim == 3 else resampled[..., 0]).astype(np.float32)
