from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusion_diff.verdict.diameter import diameter

masks = hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(lambda mask: mask.any(axis=1).all())


@given(masks, st.floats(0.2, 5))
def test_it_is_the_distance_of_the_two_corners_that_are_farthest_apart(mask, stretch):
    rows, columns = np.arange(mask.shape[0] + 1.0), stretch * np.arange(mask.shape[1] + 1.0)
    corners = np.array(
        [(rows[i + down], columns[j + right]) for i, j in np.argwhere(mask) for down in (0, 1) for right in (0, 1)]
    )
    farthest = np.linalg.norm(corners[:, None] - corners, axis=2).max()
    assert diameter(mask, rows, columns) == pytest.approx(farthest)
