"""Connected regions of high evidence: where a micrograph departs from the references, how far and how large.

A token stands for 8 pixels or more a side, so counting whole tokens would measure every region in steps of 64 px². The
map is therefore sampled between the tokens before it is cut at the threshold: an odd number of samples along each
token, as close to one per native pixel as `_MAX_SAMPLES` allows, down to one per token on very large micrographs. Odd,
because one sample then falls exactly on the token's own value: no token above the threshold is lost and peaks are those
of the map, whereas the native pixel grid passes half a pixel beside each peak. Every sample weighs the native pixels
that it stands for, clipped at the micrograph's edge.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.result import Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion_diff.result import EvidenceMap

_MAX_SAMPLES = 2**22


def find_regions(
    evidence: EvidenceMap, threshold: float, *, pixel_size_um: float | None, max_regions: int = 50
) -> tuple[Region, ...]:
    """Return the connected regions (8 neighbours) whose evidence lies above a threshold, the strongest first.

    Args:
        evidence: the map, in log-odds. Values that are not finite are in no region.
        threshold: evidence strictly above this belongs to a region.
        pixel_size_um: side of a native pixel in µm; None leaves the `_um` fields None.
        max_regions: keep at most this many.

    Returns:
        Regions by falling integrated evidence (log-odds times px²). Centroids are weighted by area, and like every
        position are measured from the outer top left corner of the micrograph, x to the right and y down.

    Raises:
        ValueError: the threshold is not a number, or the pixel size or `max_regions` is not positive.
    """
    from scipy.ndimage import find_objects, label

    if math.isnan(threshold):
        raise ValueError("threshold is not a number")
    if pixel_size_um is not None and not 0 < pixel_size_um < math.inf:
        raise ValueError(f"pixel_size_um must be a positive number of µm or None, got {pixel_size_um}")
    if max_regions < 1:
        raise ValueError(f"max_regions must be at least 1, got {max_regions}")

    per_token = _samples_per_token(evidence)
    row_edges = _edges(evidence.values.shape[0], per_token, evidence.scale, evidence.height)
    column_edges = _edges(evidence.values.shape[1], per_token, evidence.scale, evidence.width)
    values = interpolate(
        evidence.values,
        _positions(evidence.values.shape[0], per_token),
        _positions(evidence.values.shape[1], per_token),
    )
    areas = np.diff(row_edges)[:, None] * np.diff(column_edges)[None, :]
    labels, count = label((values > threshold) & np.isfinite(values) & (areas > 0), structure=np.ones((3, 3)))
    if not count:
        return ()

    inside = labels > 0
    member, area, value = labels[inside], areas[inside], values[inside].astype(np.float64)
    row, column = np.nonzero(inside)

    def total(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(member, weights=weights, minlength=count + 1)[1:], dtype=np.float64)

    area_px, integral = total(area), total(area * value)
    centroid_row = total(area * (row_edges[row] + row_edges[row + 1]) / 2) / area_px
    centroid_column = total(area * (column_edges[column] + column_edges[column + 1]) / 2) / area_px
    peak = np.full(count + 1, -np.inf)
    np.maximum.at(peak, member, value)
    boxes = find_objects(labels)

    regions = []
    for index in np.argsort(-integral, kind="stable")[:max_regions]:
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
                centroid_x_um=None if pixel_size_um is None else float(centroid_column[index]) * pixel_size_um,
                centroid_y_um=None if pixel_size_um is None else float(centroid_row[index]) * pixel_size_um,
            )
        )
    return tuple(regions)


def interpolate(
    values: NDArray[np.float32], rows: NDArray[np.floating], columns: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Return `values` at the crossings of fractional `rows` and `columns`, bilinearly, its edge continued outwards.

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
        with np.errstate(invalid="ignore"):  # infinite evidence gives NaN beside it, which callers pass over
            # In this form, equal neighbours give exactly their own value.
            values = values.take(low, axis) + (values.take(high, axis) - values.take(low, axis)) * part
    return np.asarray(values, dtype=np.float32)


def _samples_per_token(evidence: EvidenceMap) -> int:
    native = 1 / evidence.scale
    affordable = math.sqrt(_MAX_SAMPLES / evidence.values.size)
    return max(1, 2 * (math.floor(min(native + 1, affordable) - 1) // 2) + 1)


def _positions(tokens: int, per_token: int) -> NDArray[np.float64]:
    # In whole numbers before the division, so that the middle sample of a token falls on it exactly.
    return (2 * np.arange(tokens * per_token) + 1 - per_token) / (2 * per_token)


def _edges(tokens: int, per_token: int, scale: float, side: int) -> NDArray[np.float64]:
    """Borders of the samples in native pixels; the last reaches the micrograph's edge, and none passes it."""
    edges = np.minimum(np.round(np.arange(tokens * per_token + 1) / (per_token * scale), 6), side)
    edges[-1] = side
    return edges
