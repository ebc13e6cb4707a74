"""Cubic splines as matrices: an image is resampled by one matrix product along each side, with NumPy only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CONTINUED = 12
"""Samples by which the edge is extended. More distant samples contribute less than 1e-7 to a spline."""


def spline_weights(positions: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the matrix (n, count) that interpolates samples along an axis by a cubic spline, with repeated edges.

    The spline passes through the samples (Unser 1999, "Splines: a perfect fit for signal and image processing").

    Args:
        positions: (n,) fractional positions among the samples, from 0 to `count - 1`.
        count: number of samples along the axis.
    """
    size = count + 2 * _CONTINUED
    shifted = np.asarray(positions, dtype=np.float64) + _CONTINUED
    first = np.floor(shifted).astype(np.intp)
    part = shifted - first
    basis = ((1 - part) ** 3, 4 - 6 * part**2 + 3 * part**3, 1 + 3 * part + 3 * part**2 - 3 * part**3, part**3)
    values = np.zeros((len(first), size))
    for offset, weight in enumerate(basis, start=-1):
        values[np.arange(len(first)), first + offset] = weight / 6
    # Matrix from spline coefficients to samples, mirrored at the ends.
    sampled = (4 * np.eye(size) + np.eye(size, k=1) + np.eye(size, k=-1)) / 6
    sampled[0, 1] = sampled[-1, -2] = 2 / 6
    weights = np.asarray(np.linalg.solve(sampled.T, values.T).T, dtype=np.float64)
    inside = weights[:, _CONTINUED:-_CONTINUED].copy()
    inside[:, 0] += weights[:, :_CONTINUED].sum(1)
    inside[:, -1] += weights[:, -_CONTINUED:].sum(1)
    return inside
