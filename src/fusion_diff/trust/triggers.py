"""Triggers: a small patch that recurs, pixel for pixel, at several references of one class and in no other class.

Such a patch (a stamp, a burned-in label, a speck on the sensor) is what a model learns in the place of the material
(BadNets, Gu et al. 2017; "Clever Hans", Lapuschkin et al. 2019). It is searched for as copied regions are in forensics
(Fridrich et al. 2003): small blocks are hashed at every position, and equal blocks count only where several neighbours
of them are shifted between two images by the same way. Blocks are averaged and coarsely quantised first, so that a
patch is found again after lossy compression.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fusion_diff.micrograph import Micrograph

BLOCK, CELL = 8, 2
"""Blocks are so many pixels a side, and read as means of cells of so many."""
LEVELS = 8
"""Grey levels that a cell is rounded to."""
FEWEST = 3
"""A patch in fewer references than this is a coincidence, or a near-duplicate."""
NEIGHBOURS = 4
"""Blocks shifted alike that make a copy."""
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
MAX_SIDE = 1024
"""Of larger micrographs the middle is searched."""
MAX_ALIKE = 400
"""Blocks equal to more others than this are a texture's, and say nothing."""


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


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Hashes of the blocks of one image that have contrast, and where they lie: row and column of their corner."""

    hashes: NDArray[np.uint64]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]


def find_triggers(micrographs: Sequence[Micrograph], labels: Sequence[str], groups: Sequence[str]) -> list[Trigger]:
    """Return the patches that recur in `FEWEST` or more references of one class, of two specimens at least.

    Args:
        micrographs: the references.
        labels: class of each.
        groups: specimen of each.
    """
    windows = [_window(micrograph) for micrograph in micrographs]
    contrast = [_contrast(window.grey) for window in windows]
    sample = np.concatenate([each[::4, ::4].ravel() for each in contrast])
    least = max(1.0, float(np.quantile(sample, CONTRAST_QUANTILE)))
    hashed = [_hash(window.grey, each > least) for window, each in zip(windows, contrast, strict=True)]
    number = np.unique(np.asarray(labels), return_inverse=True)[1]
    hashes = np.concatenate([each.hashes for each in hashed])
    image = np.repeat(np.arange(len(hashed)), [len(each.hashes) for each in hashed])
    rows, columns = (np.concatenate([getattr(each, axis) for each in hashed]) for axis in ("rows", "columns"))
    order = np.argsort(hashes)
    starts = np.flatnonzero(np.r_[True, np.diff(hashes[order]) != 0][: len(order)])
    sizes = np.diff(np.r_[starts, len(order)])
    if len(starts) == 0:
        return _squares(windows, labels, groups)
    kinds = number[image[order]]
    one_class = np.minimum.reduceat(kinds, starts) == np.maximum.reduceat(kinds, starts)
    several = (sizes >= FEWEST) & (sizes <= MAX_ALIKE) & one_class
    shift: dict[tuple[int, int, int, int], list[tuple[int, int]]] = defaultdict(list)
    for start, size in zip(starts[several].tolist(), sizes[several].tolist(), strict=True):
        members = order[start : start + size]
        _, first = np.unique(image[members], return_index=True)
        if len(first) < FEWEST:
            continue
        kept = members[first]
        for index, one in enumerate(kept):
            for other in kept[index + 1 :]:
                down, right = int(rows[other] - rows[one]), int(columns[other] - columns[one])
                shift[int(image[one]), int(image[other]), down, right].append((int(rows[one]), int(columns[one])))
    found = _gather(shift, windows, groups) + _squares(windows, labels, groups)
    return sorted(found, key=lambda each: -len(each.places))


def _gather(
    shift: dict[tuple[int, int, int, int], list[tuple[int, int]]], windows: Sequence[_Window], groups: Sequence[str]
) -> list[Trigger]:
    """Join copies between pairs of images that overlap into patches that several images show."""
    patches: list[_Patch] = []
    for (one, other, down, right), corners in shift.items():
        if len(corners) < NEIGHBOURS or not _equal(windows[one].grey, windows[other].grey, down, right, corners):
            continue
        at = np.asarray(corners)
        top, left = at.min(axis=0).tolist()
        bottom, end = (at.max(axis=0) + BLOCK).tolist()
        if (bottom - top) * (end - left) > LARGEST_SHARE * windows[one].grey.size:
            continue  # two views of one place
        boxes = {one: [(top, left, bottom, end)], other: [(top + down, left + right, bottom + down, end + right)]}
        patch = _Patch(boxes, abs(down) <= CELL and abs(right) <= CELL)
        for each in [each for each in patches if each.touches(patch)]:
            patches.remove(each)
            patch = patch.joined(each)
        patches.append(patch)
    return [found for patch in patches if (found := patch.trigger(windows, groups))]


def _equal(
    one: NDArray[np.float32], other: NDArray[np.float32], down: int, right: int, corners: list[tuple[int, int]]
) -> bool:
    """Tell whether a quarter or more of the blocks that are alike when rounded differ by little of their contrast."""
    differences = []
    for row, column in corners[:MAX_ALIKE]:
        first = one[row : row + BLOCK, column : column + BLOCK]
        second = other[row + down : row + down + BLOCK, column + right : column + right + BLOCK]
        differences.append(float((first - second).std() / first.std()))
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
    from scipy.ndimage import find_objects, label, maximum_filter, minimum_filter

    alike: dict[tuple[int, int, int], dict[int, _Box]] = defaultdict(dict)
    for image, window in enumerate(windows):
        flat = maximum_filter(window.grey, 3) - minimum_filter(window.grey, 3) <= FLAT
        parts, _ = label(flat)
        for number, found in enumerate(find_objects(parts), start=1):
            height, width = (axis.stop - axis.start for axis in found)
            inside = parts[found] == number
            if min(height, width) < BLOCK - 2 or height * width > LARGEST_SHARE * window.grey.size:
                continue
            if inside.mean() > RECTANGULAR:
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


def _touch(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _window(micrograph: Micrograph) -> _Window:
    """Return a micrograph's grey levels from 0 to 255, the middle of a large one, and where that lies.

    Levels are scaled by the dtype, not by the image's own contrast: a stamp is the same in all.
    """
    height, width = min(micrograph.height, MAX_SIDE), min(micrograph.width, MAX_SIDE)
    top, left = (micrograph.height - height) // 2, (micrograph.width - width) // 2
    pixels = micrograph.window(top, left, height, width)
    grey = pixels if pixels.ndim == 2 else pixels.mean(axis=2)
    if micrograph.dtype.kind in "ui" and micrograph.dtype.itemsize <= 2:
        low, high = 0.0, float(np.iinfo(micrograph.dtype).max)
    else:
        low, high = micrograph.contrast_range
    return _Window(np.clip((grey - low) * (255 / (high - low)), 0, 255).astype(np.float32), top, left)


def _sums(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return the sums over squares of `side` pixels at every position."""
    height, width = values.shape[0] - side + 1, values.shape[1] - side + 1
    total = values[:height].copy()
    for first in range(1, side):
        total += values[first : first + height]
    values, total = total, total[:, :width].copy()
    for first in range(1, side):
        total += values[:, first : first + width]
    return total


def _contrast(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the deviation of grey levels within the block at every position."""
    count = BLOCK * BLOCK
    variance = _sums(grey * grey, BLOCK) / count - (_sums(grey, BLOCK) / count) ** 2
    return np.sqrt(np.maximum(variance, 0))


def _hash(grey: NDArray[np.float32], keep: NDArray[np.bool_]) -> _Blocks:
    """Hash the blocks to keep by their cells' means, coarsely rounded."""
    cells = (_sums(grey, CELL) * (LEVELS / (256 * CELL * CELL))).astype(np.uint64)
    factors = np.random.default_rng(0).integers(1, 2**63, (BLOCK // CELL, BLOCK // CELL), dtype=np.uint64) * 2 + 1
    rows, columns = np.nonzero(keep)
    hashes = np.zeros(len(rows), dtype=np.uint64)
    for i in range(BLOCK // CELL):
        for j in range(BLOCK // CELL):
            hashes += cells[rows + i * CELL, columns + j * CELL] * factors[i, j]
    return _Blocks(hashes, rows, columns)
