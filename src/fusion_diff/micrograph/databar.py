"""Detection of the information bar that electron microscopes write below their images.

A data bar is a band over the full width at the bottom. It has one level but for slight noise, contains text of high
contrast, and begins sharply within a row. All criteria must hold together: a bar left in costs a little accuracy, but
cropping micrograph rows may lose the flaw. If the metadata give the height of the bar, weaker criteria apply to these
rows. The rows must still look like a bar, because anyone can write metadata.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.micrograph import storage
from fusion_diff.micrograph.limits import MIN_SIDE

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_FRACTION = 0.25
"""Largest share of the image height that a bar may have."""

_SAMPLE_PIXELS = 2**20
_SMALLEST_ROWS = 10
_SMALLEST_FRACTION = 0.012
_CONTEXT_ROWS = 8  # rows above the bar that must look like a micrograph

# Levels are in units of the micrograph's contrast, from its 0.5 to its 99.5 percentile.
_SAME_LEVEL = 0.03  # compression changes a flat level by no more than this
_RULE_LEVEL = 0.008  # stricter, because a polished specimen is nearly uniform too
_TEXT_CONTRAST = 0.3

_BAR_ROW = 0.35  # minimum share of background level in a row of the bar, including text
_BLANK_ROW = 0.92  # minimum share of background level in the margin above the text, which may have vertical rules
_OUTSIDE_ROW = 0.6  # maximum share of background level in the micrograph rows above the edge
_RULE_ROW = 0.9  # minimum share of one level in a horizontal rule
_LARGEST_RULE = 8  # rows, including those blurred by compression
_BLURRED_ROWS = 2
_GRADUAL = 0.25  # maximum rise of the share of background level from the rows above to the last row of micrograph
_TEXT_AREA = (0.002, 0.5)
_TEXT_ROWS = 5  # minimum number of rows with several strokes, the height of small letters
_STROKES = 4
_FLAT_BAR = 0.5  # minimum share of equal neighbours in each row of a claimed bar; rows of text have far more
_FLATTEST_MICROGRAPH = 0.9  # maximum share of equal neighbours in the context rows; drawings and masks have more


@dataclass(frozen=True)
class _Profile:
    """Statistics of the lowest rows. All arrays have one value per row."""

    background: NDArray[np.float32]
    """Share of pixels at the bar's background level."""
    rule: NDArray[np.bool_]
    """Whether the row has a single level."""
    text: NDArray[np.float32]
    """Share of pixels far from the background level."""
    strokes: NDArray[np.int64]
    """Number of runs of such pixels."""
    flat: NDArray[np.float32]
    """Share of equal neighbouring pixels."""


def data_bar_rows(levels: NDArray[Any], true_height: int | None = None) -> int:
    """Return the number of rows at the bottom of an image that are a data bar.

    Args:
        levels: the image, (H, W) or (H, W, 3), any real dtype, finite; may be memory-mapped.
        true_height: height of the micrograph in rows according to the metadata, if known.

    Returns:
        Rows to crop; 0 if there is no bar or its presence is uncertain.
    """
    height = levels.shape[0]
    largest = _largest_rows(height)
    above = levels[: height - largest]
    low, high = np.percentile(_sample(above), [0.5, 99.5])
    if not low < high:
        return 0
    claimed = claimed_rows(height, true_height)
    if claimed and _is_bar(levels[height - claimed :], float(low), float(high)):
        return claimed
    smallest = max(_SMALLEST_ROWS, int(height * _SMALLEST_FRACTION))
    if largest < smallest + _CONTEXT_ROWS:
        return 0
    # More than half of a bar is background, so the median of its lower part is the background level.
    bottom = (_sample(levels[height - smallest :]) - low) / (high - low)
    level = float(np.median(bottom))
    if np.mean(np.abs(bottom - level) <= _SAME_LEVEL) < 0.5:
        return 0
    start = height - largest - _CONTEXT_ROWS
    profile = _profile(levels[start:], float(low), float(high), level)
    rows = _bar_rows(profile)
    return rows if smallest <= rows <= largest else 0


def claimed_rows(height: int, true_height: int | None) -> int:
    """Return the number of rows that the metadata claim to be a data bar.

    Args:
        height: rows of the image.
        true_height: height of the micrograph in rows according to the metadata, if known.

    Returns:
        The claimed rows; 0 if there is no claim, or it exceeds the largest accepted bar.
    """
    claimed = 0 if true_height is None else int(height - true_height)
    return claimed if 0 < claimed <= _largest_rows(height) else 0


def _largest_rows(height: int) -> int:
    return min(int(height * LARGEST_FRACTION), height - MIN_SIDE)


def _is_bar(levels: NDArray[Any], low: float, high: float) -> bool:
    """Return whether these rows are a bar: one level without noise, with text."""
    level = (float(np.median(_sample(levels))) - low) / (high - low)
    profile = _profile(levels, low, high, level)
    return bool((profile.flat >= _FLAT_BAR).all() and profile.background.mean() >= _BAR_ROW and _has_text(profile, 0))


def _sample(levels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the luminance of a regular sub-grid, of less than four times `_SAMPLE_PIXELS`."""
    step = max(1, math.isqrt(levels.shape[0] * levels.shape[1] // _SAMPLE_PIXELS))
    return _luminance(storage.sampled(levels, step))


def _luminance(levels: NDArray[Any]) -> NDArray[np.float32]:
    values = np.asarray(levels, dtype=np.float32)
    return values if values.ndim == 2 else values.mean(axis=2)


def _profile(levels: NDArray[Any], low: float, high: float, level: float) -> _Profile:
    columns: list[tuple[NDArray[Any], ...]] = []
    for rows in storage.bands(levels.shape):
        values = (_luminance(levels[rows]) - low) / (high - low)
        distance = np.abs(values - level)
        text = distance > _TEXT_CONTRAST
        middle = np.median(values, axis=1, keepdims=True)
        columns.append(
            (
                (distance <= _SAME_LEVEL).mean(axis=1, dtype=np.float32),
                (np.abs(values - middle) <= _RULE_LEVEL).mean(axis=1) >= _RULE_ROW,
                text.mean(axis=1, dtype=np.float32),
                (np.diff(text, axis=1) & text[:, 1:]).sum(axis=1) + text[:, 0],
                (np.diff(values, axis=1) == 0).mean(axis=1, dtype=np.float32),
            )
        )
        storage.release(levels)
    return _Profile(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def _bar_rows(profile: _Profile) -> int:
    """Return the number of rows below the topmost possible edge of a bar, or 0."""
    count = len(profile.background)
    outside = (profile.background < _BAR_ROW) & ~profile.rule
    first = int(np.flatnonzero(outside)[-1]) + 1 if outside.any() else 0  # all rows from here down may belong to a bar
    blank = profile.background >= _BLANK_ROW
    margins = first + np.flatnonzero(blank[first:-1] & blank[first + 1 :])
    if not len(margins):
        return 0
    # Above the margin there may be a frame, and rows blurred by compression.
    top = int(margins[0])
    while top > 0 and (profile.rule[top - 1] or profile.background[top - 1] > _OUTSIDE_ROW):
        top -= 1
    return count - top if _is_edge(profile, top, int(margins[0])) and _has_text(profile, top) else 0


def _is_edge(profile: _Profile, top: int, margin: int) -> bool:
    """Return whether a bar starts sharply at `top`, with its margin at `margin`, below a micrograph with texture."""
    if top < _CONTEXT_ROWS or margin - top > _LARGEST_RULE:
        return False
    if int((~profile.rule[top:margin]).sum()) > _BLURRED_ROWS:
        return False
    above = slice(top - _CONTEXT_ROWS, top)
    usual = float(np.median(profile.background[above]))
    # The border of a dark layer in a specimen is rough, so the level changes gradually from row to row.
    sharp = usual <= _OUTSIDE_ROW and profile.background[top - 1] - usual <= _GRADUAL
    return bool(sharp and profile.flat[above].mean() <= _FLATTEST_MICROGRAPH)


def _has_text(profile: _Profile, top: int) -> bool:
    area = float(profile.text[top:].mean())
    return _TEXT_AREA[0] <= area <= _TEXT_AREA[1] and int((profile.strokes[top:] >= _STROKES).sum()) >= _TEXT_ROWS
