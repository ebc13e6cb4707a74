"""Triggers: a small patch that recurs, pixel for pixel, at several references of one class and in no other class.

Such a patch (a stamp, a burned-in label, a speck on the sensor) is what a model learns in the place of the material
(BadNets, Gu et al. 2017; "Clever Hans", Lapuschkin et al. 2019). It is searched for block by block, see
`fusion_diff.trust.blocks`: equal blocks count only where several neighbours of them are shifted between two images by
the same way. Blocks are coarsely rounded first, so that a patch is found again after lossy compression.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.trust.blocks import BLOCK, CELL, FEWEST, LEVELS, MAX_ALIKE, contrast, find_copies

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from fusion_diff.micrograph import Micrograph
    from fusion_diff.trust.blocks import Copy

LARGEST_SHARE = 1 / 16
"""A copy that fills more of a reference than this is no small patch: the two show the same place."""
CONTRAST_QUANTILE = 0.5
"""Blocks count that have more contrast than this share of all blocks of the references: smooth ones are alike."""
LARGEST_DIFFERENCE = 0.12
"""Blocks are equal where they differ by no more than this share of their contrast."""
FLAT = 4
"""Grey levels within which a place is of one level."""
RECTANGULAR = 0.95
"""Share of its bounding box that a flat part fills at least to be a rectangle: pores and glare are not."""
MAX_SIDE = 2048
"""Of larger micrographs the middle is searched: time grows with the pixels."""

_Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Trigger:
    """A patch that recurs.

    Attributes:
        places: of each reference that shows it, by index: the box (top, left, height, width) in native pixels.
        same_place: whether it lies at the same position in all of them.
    """

    places: dict[int, tuple[int, int, int, int]]
    same_place: bool


@dataclass(frozen=True, eq=False)
class _Window:
    """Grey levels from 0 to 255 of the part of a micrograph that is searched, and where that lies."""

    grey: NDArray[np.float32]
    top: int
    left: int


def find_triggers(micrographs: Sequence[Micrograph], labels: Sequence[str], groups: Sequence[str]) -> list[Trigger]:
    """Return the patches that recur in `FEWEST` or more references of one class, of two specimens at least.

    Args:
        micrographs: the references.
        labels: class of each.
        groups: specimen of each.
    """
    greatest = _greatest(micrographs)
    windows = [_window(micrograph, greatest) for micrograph in micrographs]
    contrasts = [contrast(window.grey) for window in windows]
    sample = np.concatenate([each[::4, ::4].ravel() for each in contrasts])
    least = max(1.0, float(np.quantile(sample, CONTRAST_QUANTILE)))
    copies = find_copies(
        [window.grey for window in windows],
        [each > least for each in contrasts],
        np.unique(np.asarray(labels), return_inverse=True)[1],
    )
    found = _gather(copies, windows, groups) + _squares(windows, labels, groups)
    return sorted(found, key=lambda each: -len(each.places))


def _gather(copies: Iterable[Copy], windows: Sequence[_Window], groups: Sequence[str]) -> list[Trigger]:
    """Join copies between pairs of images that overlap into patches that several images show."""
    patches: list[_Patch] = []
    for copy in copies:
        one, other, down, right = copy.one, copy.other, copy.down, copy.right
        if not _equal(windows[one].grey, windows[other].grey, copy):
            continue
        top, left = copy.corners.min(axis=0).tolist()
        bottom, end = (copy.corners.max(axis=0) + BLOCK).tolist()
        if (bottom - top) * (end - left) > LARGEST_SHARE * windows[one].grey.size:
            continue  # two views of one place
        boxes = {one: [(top, left, bottom, end)], other: [(top + down, left + right, bottom + down, end + right)]}
        patch = _Patch(boxes, abs(down) <= CELL and abs(right) <= CELL)
        for each in [each for each in patches if each.touches(patch)]:
            patches.remove(each)
            patch = patch.joined(each)
        patches.append(patch)
    return [found for patch in patches if (found := patch.trigger(windows, groups))]


def _equal(one: NDArray[np.float32], other: NDArray[np.float32], copy: Copy) -> bool:
    """Tell whether a quarter or more of the blocks that are alike when rounded differ by little of their contrast."""
    rows, columns = (copy.corners[:MAX_ALIKE, axis, None, None] for axis in (0, 1))
    down, right = np.arange(BLOCK)[:, None], np.arange(BLOCK)
    first = one[rows + down, columns + right]
    second = other[rows + down + copy.down, columns + right + copy.right]
    differences = (first - second).std(axis=(1, 2)) / first.std(axis=(1, 2))
    return float(np.quantile(differences, 0.25)) < LARGEST_DIFFERENCE  # those across the rim differ there


@dataclass(frozen=True)
class _Patch:
    """The boxes (top, left, bottom, right) that an image shares with each other image, and whether all are in place."""

    boxes: dict[int, list[_Box]]
    same_place: bool

    def box(self, image: int) -> _Box:
        """Return the box that most pairs agree on."""
        top, left, bottom, right = np.median(np.asarray(self.boxes[image]), axis=0).astype(int).tolist()
        return top, left, bottom, right

    def touches(self, other: _Patch) -> bool:
        return any(_touch(self.box(image), other.box(image)) for image in self.boxes.keys() & other.boxes.keys())

    def joined(self, other: _Patch) -> _Patch:
        images = self.boxes.keys() | other.boxes.keys()
        boxes = {image: self.boxes.get(image, []) + other.boxes.get(image, []) for image in images}
        return _Patch(boxes, self.same_place and other.same_place)

    def trigger(self, windows: Sequence[_Window], groups: Sequence[str]) -> Trigger | None:
        """Return what is reported of the patch; None where too few show it, or it is no small one."""
        boxes = {image: self.box(image) for image in sorted(self.boxes)}
        small = all((b - t) * (r - c) <= LARGEST_SHARE * windows[i].grey.size for i, (t, c, b, r) in boxes.items())
        if len(boxes) < FEWEST or len({groups[image] for image in boxes}) < 2 or not small:
            return None
        places = {
            image: (t + windows[image].top, c + windows[image].left, b - t, r - c)
            for image, (t, c, b, r) in boxes.items()
        }
        return Trigger(places, self.same_place)


def _squares(windows: Sequence[_Window], labels: Sequence[str], groups: Sequence[str]) -> list[Trigger]:
    """Return rectangles of one grey level that recur: their blocks have no contrast, and those at their rim differ."""
    from scipy.ndimage import find_objects, label

    alike: dict[tuple[int, int, int], dict[int, _Box]] = defaultdict(dict)
    for image, window in enumerate(windows):
        flat = _around(np.maximum, window.grey) - _around(np.minimum, window.grey) <= FLAT
        parts, _ = label(flat)
        for number, found in enumerate(find_objects(parts), start=1):
            height, width = (axis.stop - axis.start for axis in found)
            if min(height, width) < BLOCK - 2 or height * width > LARGEST_SHARE * window.grey.size:
                continue
            if (parts[found] == number).mean() > RECTANGULAR:
                level = round(float(np.median(window.grey[found])) * LEVELS / 255)
                box = found[0].start - 1, found[1].start - 1, found[0].stop + 1, found[1].stop + 1
                alike[level, height, width][image] = box
    triggers = []
    for boxes in alike.values():
        if len({labels[image] for image in boxes}) == 1:
            corners = np.asarray([box[:2] for box in boxes.values()])
            patch = _Patch(
                {image: [box] for image, box in boxes.items()}, bool((np.ptp(corners, axis=0) <= CELL).all())
            )
            triggers += [found] if (found := patch.trigger(windows, groups)) else []
    return triggers


def _around(pick: np.ufunc, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the largest or smallest value within a pixel of every position."""
    rows = values.copy()
    pick(rows[1:], values[:-1], out=rows[1:])
    pick(rows[:-1], values[1:], out=rows[:-1])
    found = rows.copy()
    pick(found[:, 1:], rows[:, :-1], out=found[:, 1:])
    pick(found[:, :-1], rows[:, 1:], out=found[:, :-1])
    return found


def _touch(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _greatest(micrographs: Sequence[Micrograph]) -> dict[np.dtype[Any], float]:
    """Return the full scale of each dtype of 8 or 16 bits: micrographs of 10, 12 or 14 bits come in 16."""
    bits: dict[np.dtype[Any], int] = {}
    for micrograph in micrographs:
        if micrograph.dtype.kind in "ui" and micrograph.dtype.itemsize <= 2:
            level = int(micrograph.window(*_middle(micrograph)).max())
            least = min(8, np.iinfo(micrograph.dtype).bits - (micrograph.dtype.kind == "i"))  # dark ones stay dark
            bits[micrograph.dtype] = max(bits.get(micrograph.dtype, least), level.bit_length())
    return {dtype: float(2**count - 1) for dtype, count in bits.items()}


def _middle(micrograph: Micrograph) -> _Box:
    height, width = min(micrograph.height, MAX_SIDE), min(micrograph.width, MAX_SIDE)
    return (micrograph.height - height) // 2, (micrograph.width - width) // 2, height, width


def _window(micrograph: Micrograph, greatest: Mapping[np.dtype[Any], float]) -> _Window:
    """Return a micrograph's grey levels from 0 to 255, the middle of a large one, and where that lies.

    Levels are scaled by what is the greatest of all micrographs of a dtype, not by the image's own contrast: a stamp is
    the same in all.
    """
    top, left, height, width = _middle(micrograph)
    pixels = micrograph.window(top, left, height, width)
    channels = [pixels] if pixels.ndim == 2 else [pixels[..., index] for index in range(pixels.shape[2])]
    grey = channels[0].astype(np.float64)
    for channel in channels[1:]:
        grey += channel
    grey /= len(channels)
    if micrograph.dtype in greatest:
        low, high = 0.0, greatest[micrograph.dtype]
    else:
        low, high = micrograph.contrast_range
    return _Window(np.clip((grey - low) * (255 / (high - low)), 0, 255).astype(np.float32), top, left)
