"""Finding the information bar that electron microscopes write under their images.

A bar looks like nothing a specimen does: a band over the full width at the bottom, of one exact level without noise,
with text of high contrast in it, that starts within a row. All of that is asked for at once, because an uncropped
bar costs a little accuracy while a cropped micrograph may lose the flaw. Where a maker's metadata tell how high the bar
is, that is all they are believed: less is asked of the rows, but bars they have to be, for anyone can write metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.micrograph import storage
from fusion_diff.micrograph.limits import MIN_SIDE

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_FRACTION = 0.25
"""No more of an image than this is ever taken for a bar."""

_SMALLEST_ROWS = 10
_SMALLEST_FRACTION = 0.012
_CONTEXT_ROWS = 8  # rows above the bar that have to look like a micrograph

# Levels are measured in units of the micrograph's own contrast (its 0.5 to 99.5 percentiles).
_SAME_LEVEL = 0.03  # as far apart as compression moves a flat level
_RULE_LEVEL = 0.008  # stricter, for a polished specimen is nearly uniform too
_TEXT_CONTRAST = 0.3

_BAR_ROW = 0.35  # least fraction of a bar's row, text and all, that has the background's level
_BLANK_ROW = 0.92  # ... of its first rows, above the text: margin with at most a few vertical rules
_OUTSIDE_ROW = 0.6  # most ... of the rows of micrograph above the edge
_RULE_ROW = 0.9  # least fraction of a horizontal rule that has one level
_LARGEST_RULE = 8  # rows, with what compression blurs around it
_BLURRED_ROWS = 2
_GRADUAL = 0.25  # most that the last row of micrograph has more of the bar's level than those above it
_TEXT_AREA = (0.002, 0.5)
_TEXT_ROWS = 5  # rows with several strokes, the height of small letters
_STROKES = 4
_FLAT_BAR = 0.5  # least fraction of neighbours of one level in each row that metadata call a bar; text leaves far more
_FLATTEST_MICROGRAPH = 0.9  # most neighbours of one level in the context rows: drawings and masks have more


@dataclass(frozen=True)
class _Profile:
    """What each of the lowest rows looks like; all arrays have one value per row."""

    background: NDArray[np.float32]
    """Fraction of pixels at the bar's level."""
    rule: NDArray[np.bool_]
    """Whether the row has one level throughout."""
    text: NDArray[np.float32]
    """Fraction of pixels far from the bar's level."""
    strokes: NDArray[np.int64]
    """Runs of such pixels."""
    flat: NDArray[np.float32]
    """Fraction of neighbouring pixels that are equal."""


def data_bar_rows(levels: NDArray[Any], true_height: int | None = None) -> int:
    """Return how many rows at the bottom of an image are a data bar.

    Args:
        levels: the image, (H, W) or (H, W, 3), any real dtype, finite; may be memory-mapped.
        true_height: rows of micrograph according to the metadata, if they say.

    Returns:
        Rows to crop; 0 where there is no bar, or where it is in doubt.
    """
    height = levels.shape[0]
    largest = _largest_rows(height)
    above = levels[: height - largest]
    step = max(1, int((above.shape[0] * above.shape[1] / 2**20) ** 0.5))
    low, high = np.percentile(_luminance(storage.sampled(above, step)), [0.5, 99.5])
    if not low < high:
        return 0
    claimed = claimed_rows(height, true_height)
    if claimed and _is_bar(levels[height - claimed :], float(low), float(high)):
        return claimed
    smallest = max(_SMALLEST_ROWS, int(height * _SMALLEST_FRACTION))
    if largest < smallest + _CONTEXT_ROWS:
        return 0
    # More than half of a bar is background, so the median of its lower part is its level.
    bottom = (_luminance(levels[height - smallest :]) - low) / (high - low)
    level = float(np.median(bottom))
    if np.mean(np.abs(bottom - level) <= _SAME_LEVEL) < 0.5:
        return 0
    start = height - largest - _CONTEXT_ROWS
    profile = _profile(levels[start:], float(low), float(high), level)
    rows = _bar_rows(profile)
    return rows if smallest <= rows <= largest else 0


def claimed_rows(height: int, true_height: int | None) -> int:
    """Return how many rows of an image its metadata call a data bar, whatever these look like.

    Args:
        height: rows of the image.
        true_height: rows of micrograph according to the metadata, if they say.

    Returns:
        0 where they call none so, or more than is ever taken for a bar.
    """
    claimed = 0 if true_height is None else int(height - true_height)
    return claimed if 0 < claimed <= _largest_rows(height) else 0


def _largest_rows(height: int) -> int:
    return min(int(height * LARGEST_FRACTION), height - MIN_SIDE)


def _is_bar(levels: NDArray[Any], low: float, high: float) -> bool:
    """Tell whether rows that start where a bar would are one: of one level without noise, with text in it."""
    level = (float(np.median(_luminance(levels))) - low) / (high - low)
    profile = _profile(levels, low, high, level)
    return bool((profile.flat >= _FLAT_BAR).all() and profile.background.mean() >= _BAR_ROW and _has_text(profile, 0))


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
    """Return the rows below the topmost edge that a bar could start at, or 0."""
    count = len(profile.background)
    outside = (profile.background < _BAR_ROW) & ~profile.rule
    first = int(np.flatnonzero(outside)[-1]) + 1 if outside.any() else 0  # from here down every row could be a bar's
    blank = profile.background >= _BLANK_ROW
    margins = first + np.flatnonzero(blank[first:-1] & blank[first + 1 :])
    if not len(margins):
        return 0
    # Above the margin there may be a frame, and rows that compression has blurred.
    top = int(margins[0])
    while top > 0 and (profile.rule[top - 1] or profile.background[top - 1] > _OUTSIDE_ROW):
        top -= 1
    return count - top if _is_edge(profile, top, int(margins[0])) and _has_text(profile, top) else 0


def _is_edge(profile: _Profile, top: int, margin: int) -> bool:
    """Tell whether a bar starts at `top` (its margin at `margin`): within a row, under a micrograph with texture."""
    if top < _CONTEXT_ROWS or margin - top > _LARGEST_RULE:
        return False
    if int((~profile.rule[top:margin]).sum()) > _BLURRED_ROWS:
        return False
    above = slice(top - _CONTEXT_ROWS, top)
    usual = float(np.median(profile.background[above]))
    # The border of a dark layer in the specimen is rough: it comes gradually from row to row.
    sharp = usual <= _OUTSIDE_ROW and profile.background[top - 1] - usual <= _GRADUAL
    return bool(sharp and profile.flat[above].mean() <= _FLATTEST_MICROGRAPH)


def _has_text(profile: _Profile, top: int) -> bool:
    area = float(profile.text[top:].mean())
    return _TEXT_AREA[0] <= area <= _TEXT_AREA[1] and int((profile.strokes[top:] >= _STROKES).sum()) >= _TEXT_ROWS
