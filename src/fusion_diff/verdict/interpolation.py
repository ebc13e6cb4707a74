"""Bilinear interpolation of token maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def interpolate(
    values: NDArray[np.float32], rows: NDArray[np.floating], columns: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Return `values` bilinearly interpolated at a grid of fractional positions; beyond the edge, the edge value.

    Args:
        values: (h, w) map.
        rows: (n,) positions in tokens; 0 is the centre of the first row of tokens.
        columns: (m,) positions in tokens.

    Returns:
        float32 (n, m).
    """
    for axis, positions in enumerate((rows, columns)):
        low = np.clip(np.floor(positions).astype(np.intp), 0, values.shape[axis] - 1)
        high = np.minimum(low + 1, values.shape[axis] - 1)
        part = np.clip(positions - low, 0, 1).astype(np.float32)
        part = part[:, None] if axis == 0 else part[None, :]
        with np.errstate(invalid="ignore"):  # infinite evidence gives NaN beside it, which callers ignore
            # In this form, equal neighbours give exactly their value.
            values = values.take(low, axis) + (values.take(high, axis) - values.take(low, axis)) * part
    return np.asarray(values, dtype=np.float32)
