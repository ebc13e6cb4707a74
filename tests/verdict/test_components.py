from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import find_objects, label

from fusion_diff.verdict.components import components

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@given(MASKS)
def test_parts_are_numbered_and_spanned_as_scipy_does(mask):
    labels, boxes = components(mask)
    expected, count = label(mask, structure=np.ones((3, 3)))
    assert np.array_equal(labels, expected)
    assert boxes == find_objects(expected)
    assert len(boxes) == count


def test_a_part_that_winds_through_the_whole_mask_is_one():
    mask = np.zeros((101, 101), dtype=bool)
    mask[::2] = True
    for row in range(1, 101, 4):
        mask[row, -1] = True
        mask[row + 2 : row + 3, 0] = True
    labels, boxes = components(mask)
    assert boxes == [(slice(0, 101), slice(0, 101))]
    assert np.array_equal(labels > 0, mask)
