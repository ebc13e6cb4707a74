from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from fusion_diff.micrograph.splines import spline_weights


@given(st.integers(1, 90), st.floats(1, 8), st.integers(0, 99))
def test_a_line_is_interpolated_as_scipy_does(count, enlarge, seed):
    values = np.random.default_rng(seed).normal(size=count)
    positions = np.clip((np.arange(round(count * enlarge)) + 0.5) / enlarge - 0.5, 0, count - 1)
    expected = map_coordinates(values, [positions], order=3, mode="nearest")
    assert spline_weights(positions, count) @ values == pytest.approx(expected, abs=1e-5)


def test_samples_keep_their_values_and_weights_add_up_to_one():
    weights = spline_weights(np.arange(20.0), 20)
    assert weights == pytest.approx(np.eye(20), abs=1e-9)
    assert spline_weights(np.linspace(0, 19, 77), 20).sum(1) == pytest.approx(np.ones(77))
