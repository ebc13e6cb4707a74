"""Connected components of a mask, with NumPy alone: runs in each row are joined where they touch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], list[tuple[slice, slice]]]:
    """Label the connected components of a mask (h, w), with 8-connectivity.

    Returns:
        (h, w) labels, counted from 1 in row order, 0 outside of the mask; and the rows and columns that each component
        spans.
    """
    height, width = mask.shape
    edges = np.zeros((height, width + 2), dtype=np.int8)
    edges[:, 1:-1] = mask
    steps = np.diff(edges, axis=1)
    row, start = np.nonzero(steps == 1)
    end = np.nonzero(steps == -1)[1]  # excluded
    if not len(row):
        return np.zeros(mask.shape, dtype=np.int32), []
    # Runs are sorted by these keys, so the runs of the row above that touch a run are consecutive.
    stride = width + 2
    first = np.searchsorted(row * stride + end, (row - 1) * stride + start, side="left")
    last = np.searchsorted(row * stride + start, (row - 1) * stride + end, side="right")
    touching = np.maximum(last - first, 0)
    below = np.repeat(np.arange(len(row)), touching)
    above = np.repeat(first - np.cumsum(touching) + touching, touching) + np.arange(len(below))
    numbers = _joined(len(row), above, below)
    labels = np.zeros((height, width + 1), dtype=np.int32)
    labels[row, start], labels[row, end] = numbers, -numbers
    np.cumsum(labels, axis=1, out=labels)
    count = int(numbers.max())
    spans = np.empty((4, count + 1), dtype=np.intp)
    spans[:2], spans[2:] = max(height, width), 0
    for span, values, extreme in zip(
        spans, (row, start, row + 1, end), (np.minimum, np.minimum, np.maximum, np.maximum), strict=True
    ):
        extreme.at(span, numbers, values)
    boxes = [(slice(top, bottom), slice(left, right)) for top, left, bottom, right in spans[:, 1:].T.tolist()]
    return labels[:, :-1], boxes


def _joined(count: int, first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.int32]:
    """Return the component number (from 1) of each of `count` runs, given pairs of runs that touch."""
    least = np.arange(count)
    while True:
        before = least.copy()
        both = np.minimum(least[first], least[second])
        # The representatives take the smaller label too, so that whole chains are relabelled at once.
        for index in (first, second, before[first], before[second]):
            np.minimum.at(least, index, both)
        while not np.array_equal(least, least[least]):
            least = least[least]
        if np.array_equal(least, before):
            return (np.unique(least, return_inverse=True)[1] + 1).astype(np.int32)
