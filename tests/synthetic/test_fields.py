from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_diff.synthetic.fields import FAR, cloud_noise, coverage, smooth_line, smooth_noise, stamp
from fusion_diff.synthetic.imaging import blurred


@pytest.mark.parametrize("period", [1.0, 4.0, 11.5])
def test_smooth_noise_has_unit_variance(period: float) -> None:
    rng = np.random.default_rng(0)
    field = smooth_noise(rng, 256, period)
    assert field.shape == (256, 256)
    assert field.dtype == np.float32
    assert abs(field.mean()) < 0.2
    assert 0.8 < field.std() < 1.2
    assert 0.7 < cloud_noise(rng, 256, period, 3).std() < 1.3
    assert 0.7 < smooth_line(rng, 2000, period).std() < 1.3


def test_smooth_noise_is_as_smooth_as_asked() -> None:
    field = smooth_noise(np.random.default_rng(1), 200, 40.0, 5.0)
    assert np.abs(np.diff(field, axis=0)).mean() < 0.3 * np.abs(np.diff(field, axis=1)).mean()


@settings(max_examples=40, deadline=None)
@given(y=st.floats(-20, 68), x=st.floats(-20, 68), radius=st.floats(0.3, 30), size=st.integers(32, 50))
def test_a_stamped_disc_has_its_exact_distance_near_it(y: float, x: float, radius: float, size: int) -> None:
    field = stamp(size, [y], [x], [radius])
    rows, columns = np.mgrid[:size, :size]
    exact = np.hypot(rows - y, columns - x) - radius
    near = exact < 1.5
    np.testing.assert_allclose(field[near], exact[near], atol=2e-3)
    assert (field[exact > 1.5] > 1.4).all()


def test_many_stamps_are_the_union_of_single_ones() -> None:
    rng = np.random.default_rng(2)
    y, x, radius = rng.uniform(0, 64, 30), rng.uniform(0, 64, 30), rng.uniform(0.5, 12, 30)
    aspect, angle = rng.uniform(1, 3, 30), rng.uniform(0, 3, 30)
    together = stamp(64, y, x, radius, aspect=aspect, angle=angle)
    apart = np.minimum.reduce([stamp(64, y[i], x[i], radius[i], aspect=aspect[i], angle=angle[i]) for i in range(30)])
    np.testing.assert_array_equal(together, apart)


def test_no_stamps_leave_an_empty_field() -> None:
    assert (stamp(32, [], [], []) == FAR).all()


def test_a_stamped_ellipse_covers_its_area() -> None:
    field = stamp(96, 48, 48, 15, aspect=2.0, angle=0.7, wobble=0.15, rng=np.random.default_rng(3))
    assert coverage(field).sum() == pytest.approx(np.pi * 15**2, rel=0.15)


def test_blur_keeps_the_mean_and_matches_a_gaussian() -> None:
    from scipy.ndimage import gaussian_filter

    image = np.random.default_rng(4).random((64, 64), dtype=np.float32)
    expected = gaussian_filter(image, 1.2, mode="nearest")
    np.testing.assert_allclose(blurred(image, 1.2), expected, atol=0.01)
    np.testing.assert_array_equal(blurred(image, 0.0), image)
