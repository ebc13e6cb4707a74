"""Greatest distance between two points of a region (maximum Feret diameter), with NumPy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def diameter(mask: NDArray[np.bool_], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> float:
    """Return the greatest distance between two points of a region.

    The longer side of its box is less, by up to 29 % for a thin region along a diagonal.

    Args:
        mask: (h, w) samples that belong to the region, at least one in each row.
        rows: (h + 1,) increasing borders of the samples from top to bottom, in any unit of length.
        columns: (w + 1,) borders from left to right, in the same unit.
    """
    left, right = columns[mask.argmax(axis=1)], columns[::-1][mask[:, ::-1].argmax(axis=1)]
    # A border of rows reaches as far as the wider of the two.
    first = np.minimum(np.append(left, left[-1]), np.insert(left, 0, left[0]))
    last = np.maximum(np.append(right, right[-1]), np.insert(right, 0, right[0]))
    convex = _leftmost(first, rows) + [(-x, y) for x, y in _leftmost(-last, rows)]
    x, y = np.array(convex).T
    return float(np.hypot(x[:, None] - x, y[:, None] - y).max())


def _leftmost(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return the points of the convex hull that face left, of points ordered by increasing y."""
    chain: list[tuple[float, float]] = []
    for point in zip(x.tolist(), y.tolist(), strict=True):
        while len(chain) > 1 and _within(chain[-2], chain[-1], point):
            chain.pop()
        chain.append(point)
    return chain


def _within(above: tuple[float, float], it: tuple[float, float], below: tuple[float, float]) -> bool:
    """Return whether a point does not lie left of the line between two others."""
    return (it[0] - above[0]) * (below[1] - above[1]) >= (below[0] - above[0]) * (it[1] - above[1])
