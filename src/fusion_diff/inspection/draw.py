"""Pictures for the report, drawn with NumPy and Pillow: the heat map, the outlines of regions, the scale bar.

Each is a transparent layer of its own over the plain micrograph, so that a reader can fade the heat map and
see what lies beneath.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fusion_diff.verdict.result import EvidenceMap, Region

HEAT_SIDE = 320
"""Longest side of a heat map in pixels: evidence is smooth, and browsers enlarge it smoothly."""
OUTLINE_SIDE = 960
"""Longest side of the layer of outlines in pixels, however small the micrograph, so that lines and digits are crisp."""

# Every 15th colour of "inferno" by Nathaniel J. Smith and Stéfan van der Walt (CC0, bids.github.io/colormap):
# perceptually uniform, legible to the colour-blind and in grey print. Straight lines between these colours stay within
# 6 of 255 levels of the original.
_ANCHORS = bytes.fromhex(
    "000004 0a0722 1e0c45 380962 510e6c 69166e 801f6c 982766 b0315b "
    "c63d4d d94d3d e9612b f47918 fa9407 fcb014 f8cd37 f2ea69 fcffa4"
)


def _colormap() -> NDArray[np.uint8]:
    anchors = np.frombuffer(_ANCHORS, dtype=np.uint8).reshape(-1, 3)
    at = np.linspace(0, 255, len(anchors))
    channels = [np.interp(np.arange(256), at, anchors[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


COLORMAP: NDArray[np.uint8] = _colormap()
"""uint8 (256, 3): the perceptually uniform colours of the heat map, from black to pale yellow."""

# The darkest colours would only dim the micrograph, so the scale starts at the violet; what is left is as uniform.
_FIRST_COLOUR = 80


def heat_colours() -> NDArray[np.uint8]:
    """Return uint8 (256, 4), the RGBA colours for evidence from 0 (transparent) to the limit (opaque)."""
    index = np.rint(np.linspace(_FIRST_COLOUR, 255, 256)).astype(np.intp)
    alpha = np.rint(255 * np.minimum(1, np.linspace(0, 1, 256) * 2.5)).astype(np.uint8)
    return np.column_stack([COLORMAP[index], alpha])


def heat_limit(maps: Sequence[EvidenceMap], thresholds: Sequence[float]) -> float:
    """Return one limit, in log-odds, at which to clip the heat maps of a report so that their colours compare.

    The median peak of the maps that pass their threshold, so that no single outlier darkens the others; no less than 2
    (odds of 7 to 1) nor than 1.5 times any threshold, so that chance alone never glows and regions differ from what
    lies just below. Rounded up to a round number.
    """
    peaks = [float(evidence.values.max(initial=0.0)) for evidence in maps]
    passed = [peak for peak, threshold in zip(peaks, thresholds, strict=True) if threshold < peak < math.inf]
    typical = float(np.median(passed)) if passed else 0.0
    highest = max((threshold for threshold in thresholds if math.isfinite(threshold)), default=0.0)
    limit = max(2.0, typical, 1.5 * highest)
    step = 10.0 ** math.floor(math.log10(limit))
    return next(float(times * step) for times in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if times * step >= limit * (1 - 1e-9))


def heat_map(evidence: EvidenceMap, limit: float) -> Image.Image:
    """Return the evidence as a transparent picture (palette of 256) with the micrograph's aspect.

    Evidence is clipped to [-limit, limit]; where it is 0 or less the picture is fully transparent.
    """
    height, width = fit(evidence.height, evidence.width, HEAT_SIDE)
    values = np.nan_to_num(evidence.resized(height, width), nan=0.0, posinf=limit, neginf=-limit)
    picture = Image.fromarray(np.rint(255 * np.clip(values / limit, 0, 1)).astype(np.uint8), mode="P")
    colours = heat_colours()
    picture.putpalette(colours[:, :3].tobytes())
    picture.info["transparency"] = colours[:, 3].tobytes()
    return picture


def outlines(
    evidence: EvidenceMap, threshold: float, regions: Sequence[Region], pixel_size_um: float | None
) -> Image.Image:
    """Return a transparent grey picture of what is written over a micrograph.

    Evidence above the threshold is outlined, the regions are numbered from 1 as listed, and a scale bar stands in the
    lower left corner. White with a dark rim, to be seen on any ground. A region too small to be outlined at this size
    gets a small box.
    """
    from scipy.ndimage import binary_erosion

    height, width = fit(evidence.height, evidence.width, OUTLINE_SIDE, enlarge=True)
    zoom = width / evidence.width
    above = evidence.resized(height, width) > threshold
    marked = np.zeros((height, width), dtype=bool)
    boxes = [_box(region, zoom, height, width) for region in regions]
    tips = []  # the highest point of each region
    for top, left, bottom, right in boxes:  # a region beyond those listed stays without an outline
        part = above[top:bottom, left:right]
        part = part | ~part.any()
        marked[top:bottom, left:right] |= part
        row = int(part.any(axis=1).argmax())
        tips.append((left + int(np.flatnonzero(part[row]).mean()), top + row))
    ink = Image.fromarray((marked & ~binary_erosion(marked, iterations=2)).astype(np.uint8) * 255)
    _write_numbers(ink, tips, boxes)
    _draw_scale_bar(ink, scale_bar(evidence.width, pixel_size_um), zoom)
    rim = ink.filter(ImageFilter.MaxFilter(5)).point(lambda level: round(0.75 * level))
    return Image.merge("LA", (ink, ImageChops.lighter(ink, rim)))


@dataclass(frozen=True)
class ScaleBar:
    """A bar of round length: its length in native pixels, and its label."""

    pixels: float
    label: str


def scale_bar(width: int, pixel_size_um: float | None) -> ScaleBar:
    """Return a bar of 1, 2 or 5 times a power of ten, the longest that takes no more than 0.3 of the width.

    In nm, µm or mm where the pixel size is known, else in px (and then never less than one).
    """
    if pixel_size_um is None:
        length = max(1.0, _round_down(0.3 * width))
        return ScaleBar(length, f"{length:.0f} px")
    length = _round_down(0.3 * width * pixel_size_um)
    unit, factor = ("nm", 1e3) if length < 1 else ("µm", 1.0) if length < 1e3 else ("mm", 1e-3)
    return ScaleBar(length / pixel_size_um, f"{length * factor:.12g} {unit}")


def fit(height: int, width: int, side: int, *, enlarge: bool = False) -> tuple[int, int]:
    """Return (height, width) with the longer side at most `side`, or exactly so with `enlarge`; at least 1 each."""
    factor = side / max(height, width)
    if not enlarge:
        factor = min(1.0, factor)
    return max(1, round(height * factor)), max(1, round(width * factor))


def data_uri(picture: Image.Image, format: str) -> str:
    """Return a picture as a `data:` address holding a JPEG or PNG file."""
    return f"data:image/{format.lower()};base64,{base64.b64encode(encoded(picture, format)).decode()}"


def encoded(picture: Image.Image, format: str) -> bytes:
    """Return a picture as the bytes of a JPEG or PNG file."""
    buffer = io.BytesIO()
    options = {"quality": 82} if format == "JPEG" else {}
    picture.save(buffer, format, optimize=True, **options)
    return buffer.getvalue()


def _round_down(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return power * max(times for times in (1, 2, 5) if times <= value / power * (1 + 1e-9) or times == 1)


def _box(region: Region, zoom: float, height: int, width: int) -> tuple[int, int, int, int]:
    """The region's box in the picture (top, left, bottom, right), at least 9 pixels a side and inside the picture."""

    def span(start: int, length: int, side: int) -> tuple[int, int]:
        low, high = math.floor(start * zoom), math.ceil((start + length) * zoom)
        grow = max(0, 9 - (high - low))
        low = min(max(0, low - grow // 2), max(0, side - 9))
        return low, min(side, max(high, low + 9))

    top, bottom = span(region.top, region.height, height)
    left, right = span(region.left, region.width, width)
    return top, left, bottom, right


def _write_numbers(
    ink: Image.Image, tips: Sequence[tuple[int, int]], boxes: Sequence[tuple[int, int, int, int]]
) -> None:
    """Write each region's number over its highest point or beside its box, clear of other numbers where possible."""
    draw = ImageDraw.Draw(ink)
    font = ImageFont.load_default(28)
    taken: list[tuple[float, float, float, float]] = []
    for index, ((tip_x, tip_y), (top, left, bottom, right)) in enumerate(zip(tips, boxes, strict=True), start=1):
        x0, y0, x1, y1 = draw.textbbox((0, 0), str(index), font=font, stroke_width=2)
        w, h = x1 - x0, y1 - y0
        places = [(tip_x - w / 2, tip_y - h - 3), (right + 3, top), (left, bottom + 3), (left - w - 3, top)]
        inside = [(min(max(2.0, x), ink.width - w - 2.0), min(max(2.0, y), ink.height - h - 2.0)) for x, y in places]
        free = [
            (x, y) for x, y in inside if not any(x < c and a < x + w and y < d and b < y + h for a, b, c, d in taken)
        ]
        x, y = (free or inside)[0]
        taken.append((x, y, x + w, y + h))
        draw.text((x - x0, y - y0), str(index), font=font, fill=255, stroke_width=2, stroke_fill=0)


def _draw_scale_bar(ink: Image.Image, bar: ScaleBar, zoom: float) -> None:
    draw = ImageDraw.Draw(ink)
    size = 30
    font = ImageFont.load_default(size)
    length, margin = bar.pixels * zoom, round(0.02 * ink.width) + 4
    bottom = ink.height - margin
    text = bar.label.replace("µ", "u")
    wide = draw.textlength(text, font=font)
    x, baseline = round(margin + max(0.0, (length - wide) / 2)), bottom - 14
    draw.text((x, baseline), text, font=font, anchor="ls", fill=255, stroke_width=2, stroke_fill=0)
    if "µ" in bar.label:  # the font that Pillow carries has no µ: lengthen the stem of the u
        stem = round(x + draw.textlength(text[: bar.label.index("µ")], font=font) + 0.07 * size)
        draw.rectangle((stem, baseline - size // 3, stem + 2, baseline + size // 5), fill=255)
    draw.rectangle((margin, bottom - 6, margin + max(1.0, length) - 1, bottom - 1), fill=255)
