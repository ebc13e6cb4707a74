"""Recurring blocks, compared with a brute-force search."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter

from fusion_diff.trust.copy_move import BLOCK, CELL, FEWEST, LEVELS, MAX_ALIKE, NEIGHBOURS, contrast, find_copies


def slowly(greys, keeps, classes):
    """Return images, shift and corners of all copies, computed by brute force as `find_copies` documents."""
    seen = defaultdict(list)
    for image, (grey, keep) in enumerate(zip(greys, keeps, strict=True)):
        for row, column in zip(*np.nonzero(keep), strict=True):
            block = grey[row : row + BLOCK, column : column + BLOCK]
            cells = block.reshape(BLOCK // CELL, CELL, BLOCK // CELL, CELL).mean((1, 3)) * (LEVELS / 256)
            seen[tuple(np.floor(cells).ravel())].append((image, int(row), int(column)))
    found = defaultdict(set)
    for members in seen.values():
        first = {}
        for image, row, column in members:
            first.setdefault(image, (row, column))
        if len(members) > MAX_ALIKE or len(first) < FEWEST or len({classes[image] for image in first}) > 1:
            continue
        for one, (top, left) in first.items():
            for other, (row, column) in first.items():
                if one < other:
                    found[one, other, row - top, column - left].add((top, left))
    return {key: corners for key, corners in found.items() if len(corners) >= NEIGHBOURS}


def found_in(greys, keeps, classes):
    copies = list(find_copies(greys, keeps, np.asarray(classes)))
    assert len({(each.one, each.other, each.down, each.right) for each in copies}) == len(copies)
    return {(each.one, each.other, each.down, each.right): set(map(tuple, each.corners.tolist())) for each in copies}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 5))
def test_copies_are_those_of_the_plain_search(seed, classes, pasted):
    rng = np.random.default_rng(seed)
    greys = [
        rng.integers(0, 256, (int(rng.integers(14, 24)), int(rng.integers(14, 24)))).astype(np.float32)
        for _ in range(int(rng.integers(1, 8)))
    ]
    for _ in range(2):  # a patch in some of them, and one more
        patch = rng.integers(0, 256, (12, 12)).astype(np.float32)
        for image in rng.permutation(len(greys))[:pasted]:
            top, left = (int(rng.integers(0, side - 11)) for side in greys[image].shape)
            greys[image][top : top + 12, left : left + 12] = patch
    keeps = [rng.random((grey.shape[0] - BLOCK + 1, grey.shape[1] - BLOCK + 1)) < 0.9 for grey in greys]
    labels = rng.integers(0, classes, len(greys)).tolist()
    assert found_in(greys, keeps, labels) == slowly(greys, keeps, labels)


def test_a_patch_pasted_into_three_images_of_a_class_is_found_in_every_pair_of_them():
    rng = np.random.default_rng(0)
    greys = [rng.integers(0, 256, (24, 24)).astype(np.float32) for _ in range(4)]
    for image, top in ((0, 1), (2, 5), (3, 9)):
        greys[image][top : top + 12, 4:16] = np.float32(8 * np.arange(144).reshape(12, 12) % 255)
    keeps = [np.ones((17, 17), dtype=bool)] * 4
    assert set(found_in(greys, keeps, [0, 1, 0, 0])) == {(0, 2, 4, 0), (0, 3, 8, 0), (2, 3, 4, 0)}
    assert found_in(greys, keeps, [0, 1, 0, 1]) == {}


def test_blocks_of_a_single_grey_that_fill_images_say_nothing():
    greys = [np.full((40, 40), 77, dtype=np.float32)] * 3
    assert found_in(greys, [np.ones((33, 33), dtype=bool)] * 3, [0, 0, 0]) == {}


def test_contrast_is_the_deviation_within_the_block():
    grey = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.float32)
    squares = uniform_filter(grey.astype(float) ** 2, BLOCK) - uniform_filter(grey.astype(float), BLOCK) ** 2
    inside = slice(BLOCK // 2, BLOCK // 2 + 13), slice(BLOCK // 2, BLOCK // 2 + 23)
    np.testing.assert_allclose(contrast(grey), np.sqrt(squares)[inside], rtol=1e-3)
