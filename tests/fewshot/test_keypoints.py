"""Keypoints: one surface is recognised under another camera, and two surfaces never match."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_diff.fewshot.correspondence import ENOUGH
from fusion_diff.fewshot.keypoints import MAX_KEYPOINTS, NOTHING, WIDTH, Keypoints


def surface(seed: int, side: int = 420) -> np.ndarray:
    """Return a blotchy glaze, uint8 (side, side)."""
    noise = np.random.default_rng(seed).normal(size=(side, side)).astype(np.float32)
    blotches = sum(cv2.GaussianBlur(noise, (0, 0), sigma) * sigma for sigma in (2, 4, 8))
    return cv2.normalize(blotches, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def photograph(picture: np.ndarray, *, turn: float = 0.0, zoom: float = 1.0, gain: float = 1.0) -> np.ndarray:
    """Return the middle of a surface as seen by another camera, uint8 (256, 256)."""
    middle = picture.shape[0] / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), turn, zoom)
    matrix[:, 2] += 128 - middle
    return (cv2.warpAffine(picture, matrix, (256, 256)) * gain).astype(np.uint8)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 99),
    turn=st.floats(-180, 180),
    zoom=st.floats(0.75, 1.5),
    gain=st.floats(0.6, 1.0),
)
def test_a_surface_is_recognised_turned_zoomed_and_in_other_light(seed, turn, zoom, gain):
    enrolled = Keypoints.find(surface(seed))
    again = Keypoints.find(photograph(surface(seed), turn=turn, zoom=zoom, gain=gain))
    assert again.shared(enrolled).points >= ENOUGH
    assert enrolled.shared(again).points >= ENOUGH


def test_different_surfaces_share_fewer_keypoints_than_are_enough():
    found = [Keypoints.find(photograph(surface(seed))) for seed in range(14)]
    assert max(a.shared(b).points for a in found for b in found if a is not b) < ENOUGH


def test_the_areas_of_two_images_of_one_surface_are_compared():
    whole = surface(0, 640)
    part = Keypoints.find(whole[200:400, 300:500])
    shared = Keypoints.find(whole).shared(part)
    assert shared.points >= ENOUGH
    assert shared.extent == pytest.approx(200**2 / 640**2, rel=0.2)
    assert shared.reversed == pytest.approx((shared.points, 640**2 / 200**2), rel=0.2)
    assert part.shared(Keypoints.find(whole)).extent == pytest.approx(shared.reversed.extent, rel=0.2)
    assert NOTHING.reversed == NOTHING


@pytest.mark.parametrize(("zoom", "points"), [(2.9, 60), (3.1, 0), (1 / 2.9, 60), (1 / 3.1, 0)])
def test_images_of_too_different_a_scale_are_no_correspondence(zoom, points):
    rng = np.random.default_rng(0)
    places, described = rng.uniform(0, 300, (60, 2)), rng.integers(0, 99, (60, WIDTH)).astype(np.uint8)
    near, far = (Keypoints((scale * places).astype(np.float32), described) for scale in (zoom, 1))
    assert far.shared(near).points == points


def test_many_points_on_one_spot_are_no_correspondence():
    textured = Keypoints.find(photograph(surface(0)))
    spot = Keypoints(np.full_like(textured.points, 50.0), textured.descriptors)
    assert textured.shared(spot).points == 0


def test_keypoints_are_few_and_of_the_documented_types():
    found = Keypoints.find(surface(1))
    assert 0 < len(found.points) <= MAX_KEYPOINTS
    assert found.points.dtype == np.float32
    assert found.descriptors.dtype == np.uint8
    assert found.descriptors.shape == (len(found.points), WIDTH)


def test_colour_is_read_as_grey():
    grey = surface(2)
    colour = Keypoints.find(np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_allclose(colour.points, Keypoints.find(grey).points, atol=1e-3)


@pytest.mark.parametrize("side", [8, 32])
def test_an_even_surface_has_no_keypoints_and_corresponds_to_nothing(side):
    even = Keypoints.find(np.full((side, side), 128, np.uint8))
    assert even.points.shape == (0, 2)
    assert even.shared(even).points == 0
    assert even.shared(Keypoints.find(surface(3))).points == 0


def test_writing_that_an_instrument_draws_on_every_picture_recognises_none():
    def written(seed: int) -> np.ndarray:
        picture = cv2.GaussianBlur(surface(seed, 768), (0, 0), 3)
        text = f"SEI 15kV WD9mm x1,000 10um {1000 + seed}"
        return cv2.putText(picture, text, (20, 740), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 255, 2)

    found = [Keypoints.find(written(seed)) for seed in range(3)]
    shared = [found[i].shared(found[j]).points for i, j in ((0, 1), (0, 2), (1, 2))]
    assert max(shared) < ENOUGH
    assert found[0].shared(Keypoints.find(written(0))).points > 10 * ENOUGH, "the very picture agrees all over"
