"""Search for blocks of pixels that several images of one class share, as in copy-move forensics.

Every block with contrast is described by the means of its cells, rounded so coarsely that they fit into one integer
(Fridrich et al. 2003 sort such blocks; 16 cells of 8 levels are 48 bits, so equal integers are equal blocks). The
integers are sorted without their positions, which is fast. The positions of the few relevant ones are looked up after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

BLOCK, CELL = 8, 2
"""Side of a block, and of a cell in it, in pixels."""
LEVELS = 8
"""Number of grey levels that a cell mean is rounded to."""
FEWEST = 3
"""Fewest images that share a patch; fewer are a coincidence or a near-duplicate."""
NEIGHBOURS = 4
"""Fewest blocks with the same shift that make a copy."""
MAX_ALIKE = 400
"""Most equal blocks; more are a common texture and are ignored."""

_BITS = (LEVELS - 1).bit_length()
_IMAGE_BITS = 64 - _BITS * (BLOCK // CELL) ** 2
"""Bits left of 64 for the index of the image."""
_TABLE_BITS = 20


@dataclass(frozen=True, eq=False)
class Copy:
    """Blocks that two images share, all with the same shift.

    Attributes:
        one: index of the first image.
        other: index of the second image.
        down: shift in rows, from the first image to the second.
        right: shift in columns.
        corners: (n, 2) row and column of each block's top left corner in the first image.
    """

    one: int
    other: int
    down: int
    right: int
    corners: NDArray[np.intp]


def contrast(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the standard deviation of grey levels within the block at every position."""
    count = BLOCK * BLOCK
    variance = _sums(grey * grey, BLOCK) / count - (_sums(grey, BLOCK) / count) ** 2
    return np.sqrt(np.maximum(variance, 0))


def find_copies(
    greys: Sequence[NDArray[np.float32]], keeps: Sequence[NDArray[np.bool_]], classes: NDArray[np.intp]
) -> Iterator[Copy]:
    """Find blocks that at least `FEWEST` images of one class share, and no image of another class.

    Args:
        greys: (H, W) grey levels from 0 to 255 of each image, at least a block a side; at most 65,536 images.
        keeps: (H - 7, W - 7) of each, True for blocks to search for.
        classes: class index of each image.

    Yields:
        A copy for each pair of images and shift with at least `NEIGHBOURS` blocks.
    """
    numbers = [_numbers(grey)[keep] for grey, keep in zip(greys, keeps, strict=True)]
    told = _telling(numbers, classes)
    if not len(told):
        return
    table = np.zeros(2**_TABLE_BITS, dtype=bool)
    table[_place(told)] = True
    members = []
    for image, (own, keep) in enumerate(zip(numbers, keeps, strict=True)):
        likely = np.flatnonzero(table[_place(own)])  # rules out most blocks
        group = np.searchsorted(told, own[likely])
        sure = told[np.minimum(group, len(told) - 1)] == own[likely]
        group, first = np.unique(group[sure], return_index=True)  # of equal blocks in an image the first
        rows, columns = np.unravel_index(np.flatnonzero(keep)[likely[sure][first]], keep.shape)
        members.append(np.stack([group, np.full(len(group), image), rows, columns]))
    group, *where = np.concatenate(members, axis=1)
    order = np.argsort(group, kind="stable")
    yield from _shifted_alike(group[order], *(axis[order] for axis in where))


def _numbers(grey: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return the integer of the block at every position: its cell means, coarsely rounded."""
    height, width = (side - BLOCK + 1 for side in grey.shape)
    cells = (_sums(grey, CELL) * (LEVELS / (256 * CELL * CELL))).astype(np.uint16)
    across = cells[:, :width].copy()
    for j in range(1, BLOCK // CELL):
        across |= cells[:, j * CELL : j * CELL + width] << (j * _BITS)
    numbers = across[:height].astype(np.uint64)
    for i in range(1, BLOCK // CELL):
        numbers |= across[i * CELL : i * CELL + height].astype(np.uint64) << np.uint64(i * _BITS * (BLOCK // CELL))
    return numbers


def _telling(numbers: Sequence[NDArray[np.uint64]], classes: NDArray[np.intp]) -> NDArray[np.uint64]:
    """Return the sorted integers of blocks that enough images of one class share, none of another, none too often."""
    shift = np.uint64(_IMAGE_BITS)
    found = np.concatenate([own << shift | np.uint64(image) for image, own in enumerate(numbers)])
    found.sort()
    number = found >> shift
    starts = np.flatnonzero(np.r_[True, number[1:] != number[:-1]][: len(number)])
    large = np.diff(np.r_[starts, len(number)])
    possible = (large >= FEWEST) & (large <= MAX_ALIKE)
    if not possible.any():
        return number[:0]
    found, large = found[np.repeat(possible, large)], large[possible]
    starts = np.cumsum(large) - large
    image = (found & np.uint64(2**_IMAGE_BITS - 1)).astype(np.intp)
    kinds = classes[image]
    one_class = np.minimum.reduceat(kinds, starts) == np.maximum.reduceat(kinds, starts)
    another = np.r_[True, image[1:] != image[:-1]]
    another[starts] = True
    several = np.add.reduceat(another.astype(np.intp), starts) >= FEWEST
    telling: NDArray[np.uint64] = found[starts[one_class & several]] >> shift
    return telling


def _place(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the slots of integers in a hash table, by multiplicative hashing (Knuth 1973)."""
    return (numbers * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _TABLE_BITS)


def _shifted_alike(
    group: NDArray[np.intp], image: NDArray[np.intp], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> Iterator[Copy]:
    """Pair the members of each group, and yield those with the same images and shift, sorted by their first pair."""
    paired = [np.zeros((2, 0), dtype=np.intp)]
    for apart in range(1, int(np.bincount(group, minlength=1).max())):
        first = np.flatnonzero(group[:-apart] == group[apart:])
        paired.append(np.stack([first, first + apart]))
    one, other = np.concatenate(paired, axis=1)
    order = np.lexsort((other, one))
    one, other = one[order], other[order]
    down, right = rows[other] - rows[one], columns[other] - columns[one]
    sides = [(int(np.ptp(axis)) + 1, int(axis.min())) if len(axis) else (1, 0) for axis in (down, right)]
    images = image[one] * (int(image.max(initial=0)) + 1) + image[other]
    key = (images * sides[0][0] + down - sides[0][1]) * sides[1][0] + right - sides[1][1]
    _, at, count = np.unique(key, return_index=True, return_counts=True)
    alike, ends = np.argsort(key, kind="stable"), np.cumsum(count)
    many = np.flatnonzero(count >= NEIGHBOURS)
    for index in many[np.argsort(at[many])].tolist():
        mine = one[alike[ends[index] - count[index] : ends[index]]]
        corners = np.stack([rows[mine], columns[mine]], axis=1)
        first = at[index]
        yield Copy(int(image[one[first]]), int(image[other[first]]), int(down[first]), int(right[first]), corners)


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
