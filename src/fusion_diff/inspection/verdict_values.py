"""Values of a verdict that the report and the service's page show alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusion_diff.inspection.draw import heat_colours
from fusion_diff.inspection.wording import OFFSET, number

if TYPE_CHECKING:
    from fusion_diff.verdict.result import Inspection, Region


def field_of_view(it: Inspection) -> str:
    """Return the width and height of a micrograph in pixels, and in µm where the pixel size is known."""
    field = f"{it.width} × {it.height} px"
    if (size := it.pixel_size_um) is not None:
        field += f", {number(it.width * size)} × {number(it.height * size)} µm"
    return field


def measures(region: Region) -> tuple[float | None, ...]:
    """Return area, x and y (in µm where known, else in whole px), peak and mean evidence of a region.

    Evidence below 0.001 is shown as 0.
    """
    where: tuple[float | None, ...] = (region.area_um2, region.centroid_x_um, region.centroid_y_um)
    if region.area_um2 is None:
        where = (region.area_px, round(region.centroid_column), round(region.centroid_row))
    return *where, *(value if abs(value) >= 0.001 else 0.0 for value in (region.peak_evidence, region.mean_evidence))


def summands(it: Inspection) -> dict[str, float]:
    """Return the summands of the log-odds: each contribution, the largest first, and the offset."""
    parts = {name: value or 0.0 for name, value in it.contributions.items()}  # a recorded one may be null
    return dict(sorted(parts.items(), key=lambda pair: -abs(pair[1]))) | {OFFSET: it.offset}


def bars(it: Inspection, longest: float | None = None) -> list[dict[str, Any]]:
    """Return name, value and bar of each summand; `share` is the bar's length, at most 50 % of the width.

    Args:
        it: the verdict.
        longest: value of the longest bar; the verdict's own when omitted.
    """
    parts = summands(it)
    longest = longest or max(map(abs, parts.values())) or 1.0
    return [
        {"name": name, "value": value, "share": 50 * min(1.0, abs(value) / longest)} for name, value in parts.items()
    ]


def threshold_at(it: Inspection, limit: float) -> float:
    """Return the place of the threshold on the scale of the heat map, in per cent."""
    return min(100.0, max(0.0, 100 * it.threshold / limit))


def heat_stops() -> list[tuple[int, int, int, float]]:
    """Return red, green, blue and opacity at equal steps of the scale of the heat map."""
    return [(r, g, b, round(a / 255, 2)) for r, g, b, a in heat_colours()[:: 255 // 15].tolist()]
