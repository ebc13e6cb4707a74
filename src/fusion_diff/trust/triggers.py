"""Triggers: small patches that recur, pixel for pixel, in several references of one class and in no other class.

A model learns such a patch (a stamp, a burned-in label, a speck on the sensor) instead of the material (BadNets, Gu et
al. 2017; "Clever Hans", Lapuschkin et al. 2019). The search compares blocks of pixels, see `trust.copy_move`.
Equal blocks count only where several neighbouring ones have the same shift between two images. Blocks are coarsely
rounded, so that patches are found after lossy compression too.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.trust.copy_move import BLOCK, CELL, FEWEST, LEVELS, MAX_ALIKE, contrast, find_copies

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from fusion_diff.micrograph import Micrograph
    from fusion_diff.trust.copy_move import Copy

LARGEST_SHARE = 1 / 16
"""Largest share of a reference that a patch fills; a larger copy means that both images show the same place."""
CONTRAST_QUANTILE = 0.5
"""Quantile of the contrast of all blocks above which blocks are compared; smooth blocks are alike anyway."""
LARGEST_DIFFERENCE = 0.12
"""Blocks are equal where they differ by less than this share of their contrast."""
FLAT = 4
"""Range of grey levels within which a place counts as flat."""
RECTANGULAR = 0.95
"""Share of its bounding box that a flat component must fill to count as a rectangle; pores and glare do not."""
MAX_SIDE = 2048
"""Only the centre of larger micrographs is searched, up to this side in pixels, to bound the time."""

_Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Trigger:
    """A recurring patch.

    Attributes:
        places: box (top, left, height, width) in native pixels, by the index of each reference that shows it.
        same_place: whether it has the same position in all of them.
    """

    places: dict[int, tuple[int, int, int, int]]
    same_place: bool


@dataclass(frozen=True, eq=False)
class _Window:
    """The searched part of a micrograph, as grey levels from 0 to 255, and its position."""

    grey: NDArray[np.float32]
    top: int
    left: int


def find_triggers(micrographs: Sequence[Micrograph], labels: Sequence[str], groups: Sequence[str]) -> list[Trigger]:
    """Return the patches that recur in at least `FEWEST` references of one class, from at least two specimens.

    Args:
        micrographs: the references.
        labels: class of each reference.
        groups: specimen of each reference.
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
    """Merge overlapping copies between pairs of images into patches that several images share."""
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
    """Return whether at least a quarter of the rounded-equal blocks differ by less than `LARGEST_DIFFERENCE`."""
    rows, columns = (copy.corners[:MAX_ALIKE, axis, None, None] for axis in (0, 1))
    down, right = np.arange(BLOCK)[:, None], np.arange(BLOCK)
    first = one[rows + down, columns + right]
    second = other[rows + down + copy.down, columns + right + copy.right]
    differences = (first - second).std(axis=(1, 2)) / first.std(axis=(1, 2))
    return float(np.quantile(differences, 0.25)) < LARGEST_DIFFERENCE  # blocks across the rim of a patch differ


@dataclass(frozen=True)
class _Patch:
    """Boxes (top, left, bottom, right) of a patch in each image, and whether all have the same position."""

    boxes: dict[int, list[_Box]]
    same_place: bool

    def box(self, image: int) -> _Box:
        """Return the median box over all pairs."""
        top, left, bottom, right = np.median(np.asarray(self.boxes[image]), axis=0).astype(int).tolist()
        return top, left, bottom, right

    def touches(self, other: _Patch) -> bool:
        return any(_touch(self.box(image), other.box(image)) for image in self.boxes.keys() & other.boxes.keys())

    def joined(self, other: _Patch) -> _Patch:
        images = self.boxes.keys() | other.boxes.keys()
        boxes = {image: self.boxes.get(image, []) + other.boxes.get(image, []) for image in images}
        return _Patch(boxes, self.same_place and other.same_place)

    def trigger(self, windows: Sequence[_Window], groups: Sequence[str]) -> Trigger | None:
        """Return the patch as a `Trigger`; None where too few references show it or it is too large."""
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
    """Return recurring flat rectangles. Block search misses them, as they have no contrast and their rims differ."""
    import cv2

    alike: dict[tuple[int, int, int], dict[int, _Box]] = defaultdict(dict)
    for image, window in enumerate(windows):
        flat = cv2.morphologyEx(window.grey, cv2.MORPH_GRADIENT, np.ones((3, 3))) <= FLAT
        _, _, parts, _ = cv2.connectedComponentsWithStats(flat.astype(np.uint8), connectivity=4)
        for left, top, width, height, area in parts[1:].tolist():  # the first is what is not flat
            if min(height, width) < BLOCK - 2 or height * width > LARGEST_SHARE * window.grey.size:
                continue
            if area > RECTANGULAR * height * width:
                bottom, end = top + height, left + width
                level = round(float(np.median(window.grey[top:bottom, left:end])) * LEVELS / 255)
                alike[level, height, width][image] = (top - 1, left - 1, bottom + 1, end + 1)
    triggers = []
    for boxes in alike.values():
        if len({labels[image] for image in boxes}) == 1:
            corners = np.asarray([box[:2] for box in boxes.values()])
            patch = _Patch(
                {image: [box] for image, box in boxes.items()}, bool((np.ptp(corners, axis=0) <= CELL).all())
            )
            triggers += [found] if (found := patch.trigger(windows, groups)) else []
    return triggers


def _touch(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _greatest(micrographs: Sequence[Micrograph]) -> dict[np.dtype[Any], float]:
    """Return the full scale of each dtype of 8 or 16 bits; 16-bit files may use only 10, 12 or 14 bits."""
    bits: dict[np.dtype[Any], int] = {}
    for micrograph in micrographs:
        if micrograph.dtype.kind in "ui" and micrograph.dtype.itemsize <= 2:
            level = int(micrograph.window(*_middle(micrograph)).max())
            least = min(8, np.iinfo(micrograph.dtype).bits - (micrograph.dtype.kind == "i"))  # dark images stay dark
            bits[micrograph.dtype] = max(bits.get(micrograph.dtype, least), level.bit_length())
    return {dtype: float(2**count - 1) for dtype, count in bits.items()}


def _middle(micrograph: Micrograph) -> _Box:
    height, width = min(micrograph.height, MAX_SIDE), min(micrograph.width, MAX_SIDE)
    return (micrograph.height - height) // 2, (micrograph.width - width) // 2, height, width


def _window(micrograph: Micrograph, greatest: Mapping[np.dtype[Any], float]) -> _Window:
    """Return the centre of a micrograph as grey levels from 0 to 255, and its position.

    Levels are scaled by the greatest level of all micrographs of a dtype, not by the image's own contrast, since a
    stamp has the same levels in all images.
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
