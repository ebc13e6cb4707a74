"""Connected regions of high evidence: where a micrograph departs from the references, how strongly, and their size.

A token covers at least 8 by 8 pixels, so counting whole tokens would measure areas in steps of 64 px². The map is
therefore interpolated between tokens before the threshold is applied. Each token has an odd number of samples per axis,
as close to one per native pixel as `_MAX_SAMPLES` allows, down to one per token on very large micrographs. With an odd
number one sample falls exactly on the token's value, so that no token above the threshold is lost and peaks are exact;
the native pixel grid would miss each peak by half a pixel. Samples are weighted by the native pixels that they cover,
clipped at the micrograph's edge.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.verdict.interpolation import interpolate
from fusion_diff.verdict.result import Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion_diff.verdict.result import EvidenceMap

MAX_REGIONS = 50
"""Most regions that a verdict lists."""
_MAX_SAMPLES = 2**22
_BAND_SAMPLES = 2**18


def find_regions(
    evidence: EvidenceMap, threshold: float, *, pixel_size_um: float | None, aspect: float = 1.0
) -> tuple[Region, ...]:
    """Return the connected regions (8 neighbours) of evidence above a threshold, the strongest first.

    Returns at most `MAX_REGIONS`, among them the longest, since a limit on length may be set.

    Args:
        evidence: map in log-odds. Values that are not finite belong to no region.
        threshold: evidence strictly above this belongs to a region.
        pixel_size_um: side of a native pixel in µm, the geometric mean where its sides differ; None leaves the `_um`
            fields None.
        aspect: width of a pixel divided by its height.

    Returns:
        Regions sorted by integrated evidence (log-odds times px²), the largest first. Centroids are weighted by area.
        Positions are measured from the outer top left corner of the micrograph, x to the right and y down.
    """
    per_token = _samples_per_token(evidence)
    row_edges = _edges(evidence.values.shape[0], per_token, evidence.scale, evidence.height)
    column_edges = _edges(evidence.values.shape[1], per_token, evidence.scale, evidence.width)
    values = interpolate(
        evidence.values,
        _positions(evidence.values.shape[0], per_token),
        _positions(evidence.values.shape[1], per_token),
    )
    heights, widths = np.diff(row_edges), np.diff(column_edges)
    mask = (values > threshold) & np.isfinite(values)
    mask &= (heights > 0)[:, None]
    mask &= widths > 0
    labels, boxes = components(mask)
    count = len(boxes)
    if not count:
        return ()

    totals = np.zeros((4, count + 1))
    peak = np.full(count + 1, -np.inf)
    step = max(1, _BAND_SAMPLES // mask.shape[1])
    for first in range(0, len(mask), step):
        band = slice(first, first + step)
        row, column = np.nonzero(mask[band])
        member, value = labels[band][row, column], values[band][row, column].astype(np.float64)
        row += first
        area = heights[row] * widths[column]
        middles = row_edges[row] + heights[row] / 2, column_edges[column] + widths[column] / 2
        for total, weight in zip(totals, (area, area * value, *(area * middle for middle in middles)), strict=True):
            total += np.bincount(member, weights=weight, minlength=count + 1)
        np.maximum.at(peak, member, value)
    area_px, integral, *moments = totals[:, 1:]
    centroid_row, centroid_column = (moment / area_px for moment in moments)

    stretch = math.sqrt(aspect)

    @cache
    def length(index: int) -> float:
        rows, columns = boxes[index]
        return diameter(
            labels[rows, columns] == index + 1,
            row_edges[rows.start : rows.stop + 1] / stretch,
            column_edges[columns.start : columns.stop + 1] * stretch,
        )

    listed = np.argsort(-integral, kind="stable")[:MAX_REGIONS].tolist()
    if count > MAX_REGIONS:
        spans = np.array([(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in boxes]).T
        high = (row_edges[spans[1]] - row_edges[spans[0]]) / stretch
        wide = (column_edges[spans[3]] - column_edges[spans[2]]) * stretch
        longest = max(listed, key=length)
        diagonals = np.hypot(high, wide)  # at least the length
        for index in np.argsort(-diagonals).tolist():
            if diagonals[index] <= length(longest):
                break
            longest = max(longest, index, key=length)
        if longest not in listed:
            listed[-1] = longest
    across, down = (None, None) if pixel_size_um is None else (pixel_size_um * stretch, pixel_size_um / stretch)
    regions = []
    for index in listed:
        rows, columns = boxes[index]
        top, left = math.floor(row_edges[rows.start]), math.floor(column_edges[columns.start])
        regions.append(
            Region(
                top=top,
                left=left,
                height=math.ceil(row_edges[rows.stop]) - top,
                width=math.ceil(column_edges[columns.stop]) - left,
                centroid_row=float(centroid_row[index]),
                centroid_column=float(centroid_column[index]),
                area_px=max(1, round(float(area_px[index]))),
                peak_evidence=float(peak[index + 1]),
                mean_evidence=float(integral[index] / area_px[index]),
                area_um2=None if pixel_size_um is None else float(area_px[index]) * pixel_size_um**2,
                centroid_x_um=None if across is None else float(centroid_column[index]) * across,
                centroid_y_um=None if down is None else float(centroid_row[index]) * down,
                length_um=None if pixel_size_um is None else length(index) * pixel_size_um,
            )
        )
    return tuple(regions)


def _samples_per_token(evidence: EvidenceMap) -> int:
    native = 1 / evidence.scale
    affordable = math.sqrt(_MAX_SAMPLES / evidence.values.size)
    return max(1, 2 * (math.floor(min(native + 1, affordable) - 1) // 2) + 1)


def _positions(tokens: int, per_token: int) -> NDArray[np.float64]:
    # Integers before the division, so that the middle sample of a token falls on it exactly.
    return (2 * np.arange(tokens * per_token) + 1 - per_token) / (2 * per_token)


def _edges(tokens: int, per_token: int, scale: float, side: int) -> NDArray[np.float64]:
    """Return the borders of the samples in native pixels, clipped to the micrograph; the last is its edge."""
    edges = np.minimum(np.round(np.arange(tokens * per_token + 1) / (per_token * scale), 6), side)
    edges[-1] = side
    return edges


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
