"""Pictures of verdicts, drawn with NumPy and Pillow: heat map, outlines of regions, and scale bar.

In the report, heat map and outlines are separate transparent layers over the micrograph, so that the heat map can be
faded.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from fusion_diff.errors import ArgumentError
from fusion_diff.micrograph.micrograph import expect_micrograph
from fusion_diff.micrograph.thumbnail import thumbnail
from fusion_diff.warn import warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fusion_diff.micrograph import Micrograph
    from fusion_diff.verdict.result import EvidenceMap, Inspection, Region

HEAT_SIDE = 320
"""Longest side of a heat map in pixels. Evidence is smooth, and browsers enlarge it smoothly."""
OUTLINE_SIDE = 960
"""Longest side of the layer of outlines in pixels, also for small micrographs, so that lines and digits are crisp."""

SMALLEST_FONT = 7
"""Size in pixels of the smallest digits that can be read."""
_OPACITY = 0.65
"""Opacity of a heat map over its micrograph, the one that the report opens with."""

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
"""uint8 (256, 3) perceptually uniform colours, from black to pale yellow."""

# The darkest colours would only dim the micrograph, so the scale starts at violet; the rest is uniform too.
_FIRST_COLOUR = 80


def heat_colours() -> NDArray[np.uint8]:
    """Return uint8 (256, 4) RGBA colours for evidence from 0 (transparent) to the limit (opaque)."""
    index = np.rint(np.linspace(_FIRST_COLOUR, 255, 256)).astype(np.intp)
    alpha = np.rint(255 * np.minimum(1, np.linspace(0, 1, 256) * 2.5)).astype(np.uint8)
    return np.column_stack([COLORMAP[index], alpha])


def heat_limit(maps: Sequence[EvidenceMap], thresholds: Sequence[float]) -> float:
    """Return the limit, in log-odds, at which all heat maps of a report are clipped, so that their colours compare.

    The limit is the median peak of the maps that exceed their threshold, so that no outlier darkens the others. It is
    at least 2 (odds of 7 to 1), so that noise stays dark, and at least 1.5 times every threshold, so that regions stand
    out. It is rounded up to a round number.
    """
    peaks = [float(evidence.values.max(initial=0.0)) for evidence in maps]
    passed = [peak for peak, threshold in zip(peaks, thresholds, strict=True) if threshold < peak < math.inf]
    typical = float(np.median(passed)) if passed else 0.0
    highest = max((threshold for threshold in thresholds if math.isfinite(threshold)), default=0.0)
    limit = max(2.0, typical, 1.5 * highest)
    step = 10.0 ** math.floor(math.log10(limit))
    return next(float(times * step) for times in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if times * step >= limit * (1 - 1e-9))


def draw_evidence(micrograph: Micrograph, inspection: Inspection, *, limit: float | None = None) -> Image.Image:
    """Draw a micrograph with its heat map, the outlines of its regions, a scale bar and a colour key.

    For notebooks and slides. Colours go from transparent, where the evidence, in log-odds, is 0 or less, to pale yellow
    at the limit, which the key in the lower right corner tells. The micrograph is grey, so that no colour is its own.

    Args:
        micrograph: the micrograph that was inspected.
        inspection: the verdict on it.
        limit: evidence of the last colour, in log-odds. Give pictures that are to be compared the same one; if omitted,
            it is that of a report on this micrograph alone (see `heat_limit`).

    Returns:
        An RGB image whose longest side has 960 pixels.

    Raises:
        ArgumentError: the verdict is on a micrograph of another size, or the limit is not a positive number.
        MicrographError: the first argument is not a `Micrograph`.

    Warns:
        UserWarning: the verdict is on another file, or another page.
    """
    expect_micrograph(micrograph)
    evidence = inspection.evidence
    if (micrograph.height, micrograph.width) != (evidence.height, evidence.width):
        raise ArgumentError(
            f"{micrograph.name} has {micrograph.height} x {micrograph.width} pixels, but the verdict is on one of "
            f"{evidence.height} x {evidence.width}; give the micrograph that was inspected"
        )
    if (micrograph.sha256, micrograph.page) != (inspection.file_sha256, inspection.page):
        warn(f"{micrograph.name}: the verdict is on another file or page; check that it shows the same specimen")
    if limit is None:
        limit = heat_limit([evidence], [inspection.threshold])
    elif not isinstance(limit, Real) or not 0 < limit < math.inf:
        raise ArgumentError(f"limit is {limit!r:.40}; give log-odds above 0")
    marks = outlines(evidence, inspection.threshold, inspection.regions, inspection.pixel_size_um)
    picture = Image.fromarray(thumbnail(micrograph, OUTLINE_SIDE)).convert("L").convert("RGB").resize(marks.size)
    heat = heat_map(evidence, limit).convert("RGBA").resize(marks.size)
    faded = heat.getchannel("A").point(lambda level: round(_OPACITY * level))
    picture.paste(heat, mask=faded)
    picture.paste(marks.convert("RGB"), mask=marks.getchannel("A"))
    _draw_colour_key(picture, limit)
    return picture


def heat_map(evidence: EvidenceMap, limit: float) -> Image.Image:
    """Return the evidence as a transparent palette image with the micrograph's aspect ratio.

    Evidence is clipped to the limit; at 0 or less the image is fully transparent.
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
    """Return a transparent grey image of the outlines of regions, their numbers from 1, and a scale bar.

    Lines are white with a dark rim, visible on any background. The scale bar is in the lower left corner. A region that
    is too small for an outline gets a small box.
    """
    from scipy.ndimage import binary_erosion

    height, width = fit(evidence.height, evidence.width, OUTLINE_SIDE, enlarge=True)
    zoom = width / evidence.width
    above = evidence.resized(height, width) > threshold
    marked = np.zeros((height, width), dtype=bool)
    boxes = [_box(region, zoom, height, width) for region in regions]
    tips = []  # topmost point of each region
    for top, left, bottom, right in boxes:  # regions that are not listed have no outline
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
    """A scale bar of round length: length in native pixels, and label."""

    pixels: float
    label: str


def scale_bar(width: int, pixel_size_um: float | None) -> ScaleBar:
    """Return the longest bar of 1, 2 or 5 times a power of ten that is at most 0.3 of the width.

    The unit is nm, µm or mm where the pixel size is known, else px, with a length of at least one pixel.
    """
    if pixel_size_um is None:
        length = max(1.0, _round_down(0.3 * width))
        return ScaleBar(length, f"{length:.0f} px")
    length = _round_down(0.3 * width * pixel_size_um)
    unit, factor = ("nm", 1e3) if length < 1 else ("µm", 1.0) if length < 1e3 else ("mm", 1e-3)
    return ScaleBar(length / pixel_size_um, f"{length * factor:.12g} {unit}")


def fit(height: int, width: int, side: int, *, enlarge: bool = False) -> tuple[int, int]:
    """Return (height, width) scaled so that the longer is at most `side`, or just `side` with `enlarge`; at least 1."""
    factor = side / max(height, width)
    if not enlarge:
        factor = min(1.0, factor)
    return max(1, round(height * factor)), max(1, round(width * factor))


def data_uri(picture: Image.Image, format: str) -> str:
    """Return a picture as a `data:` URI of a JPEG or PNG file."""
    return f"data:image/{format.lower()};base64,{base64.b64encode(encoded(picture, format)).decode()}"


def encoded(picture: Image.Image, format: str, *, fast: bool = False) -> bytes:
    """Return a picture as the bytes of a JPEG or PNG file. A fast PNG takes half the time, and a fifth more bytes."""
    buffer = io.BytesIO()
    # Pillow's `optimize` makes a heat map 1 % smaller, but takes nine times as long.
    options = {"quality": 82, "optimize": True} if format == "JPEG" else {"compress_level": 1 if fast else 6}
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def _round_down(value: float) -> float:
    """Return the largest of 1, 2 and 5 times a power of ten that is at most `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return power * max(times for times in (1, 2, 5) if times <= value / power * (1 + 1e-9) or times == 1)


def _box(region: Region, zoom: float, height: int, width: int) -> tuple[int, int, int, int]:
    """Return a region's box in the picture (top, left, bottom, right), within it and at least 9 pixels per side."""

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
    """Write each region's number above its topmost point or beside its box; those without a free place are left out."""
    draw = ImageDraw.Draw(ink)
    if not (size := _font_size(ink, 28)):
        return
    font = ImageFont.load_default(size)
    taken: list[tuple[float, float, float, float]] = []
    for index, ((tip_x, tip_y), (top, left, bottom, right)) in enumerate(zip(tips, boxes, strict=True), start=1):
        x0, y0, x1, y1 = draw.textbbox((0, 0), str(index), font=font, stroke_width=2)
        w, h = x1 - x0, y1 - y0
        places = [(tip_x - w / 2, tip_y - h - 3), (right + 3, top), (left, bottom + 3), (left - w - 3, top)]
        inside = [(min(max(2.0, x), ink.width - w - 2.0), min(max(2.0, y), ink.height - h - 2.0)) for x, y in places]
        free = [
            (x, y) for x, y in inside if not any(x < c and a < x + w and y < d and b < y + h for a, b, c, d in taken)
        ]
        if not free:
            continue
        x, y = free[0]
        taken.append((x, y, x + w, y + h))
        draw.text((x - x0, y - y0), str(index), font=font, fill=255, stroke_width=2, stroke_fill=0)


def _font_size(ink: Image.Image, size: int) -> int:
    """Return a font size that leaves room for the micrograph; 0 where no digit could be read."""
    fitting = min(size, min(ink.size) // 6)
    return fitting if fitting >= SMALLEST_FONT else 0


def _draw_colour_key(picture: Image.Image, limit: float) -> None:
    """Draw the colours from 0 to the limit into the lower right corner, with both numbers where there is room."""
    margin, wide = round(0.02 * picture.width) + 4, round(0.2 * picture.width)
    left, top = picture.width - margin - wide, picture.height - margin - 8
    strip = np.rint(np.linspace(0, 255, wide)).astype(np.intp)
    colours = Image.fromarray(np.tile(heat_colours()[strip, :3], (8, 1, 1)))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left - 1, top - 1, left + wide, top + 8), outline="white")
    picture.paste(colours, (left, top))
    if size := _font_size(picture, 24):
        font = ImageFont.load_default(size)
        for x, anchor, text in ((left, "ls", "0"), (left + wide, "rs", f"{limit:g} log-odds")):
            draw.text((x, top - 6), text, font=font, anchor=anchor, fill="white", stroke_width=2, stroke_fill="black")


def _draw_scale_bar(ink: Image.Image, bar: ScaleBar, zoom: float) -> None:
    draw = ImageDraw.Draw(ink)
    length, margin = bar.pixels * zoom, round(0.02 * ink.width) + 4
    bottom = ink.height - margin
    draw.rectangle((margin, bottom - 6, margin + max(1.0, length) - 1, bottom - 1), fill=255)
    if not (size := _font_size(ink, 30)):
        return
    font, text = ImageFont.load_default(size), bar.label.replace("µ", "u")
    wide = draw.textlength(text, font=font)
    x, baseline = round(margin + max(0.0, (length - wide) / 2)), bottom - 14
    draw.text((x, baseline), text, font=font, anchor="ls", fill=255, stroke_width=2, stroke_fill=0)
    if "µ" in bar.label:  # Pillow's own font has no µ: lengthen the stem of a u
        stem = round(x + draw.textlength(text[: bar.label.index("µ")], font=font) + 0.07 * size)
        draw.rectangle((stem, baseline - size // 3, stem + 2, baseline + size // 5), fill=255)
