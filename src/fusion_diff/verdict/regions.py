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

from fusion_diff.verdict.components import components
from fusion_diff.verdict.diameter import diameter
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
