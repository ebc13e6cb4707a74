from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import find_objects, label

from fusion_diff.verdict import regions as module
from fusion_diff.verdict.regions import MAX_REGIONS, components, diameter, find_regions
from fusion_diff.verdict.result import EvidenceMap


def map_of(values, height=None, width=None, scale=1 / 8):
    values = np.asarray(values, dtype=np.float32)
    height = round(values.shape[0] / scale) if height is None else height
    width = round(values.shape[1] / scale) if width is None else width
    return EvidenceMap(values, scale, height, width)


def one_token(value, shape=(5, 7), at=(2, 3)):
    values = np.zeros(shape, dtype=np.float32)
    values[at] = value
    return values


masks = hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(lambda mask: mask.any(axis=1).all())
maps = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-5, 5, width=32))


def test_nothing_above_the_threshold_gives_no_region():
    assert find_regions(map_of(np.zeros((4, 4))), 0.0, pixel_size_um=None) == ()


def test_the_area_of_a_lone_token_is_that_of_the_interpolated_peak_not_of_the_token():
    # Bilinearly the peak is (1 - |x|)(1 - |y|) tokens about the centre; the part of it above one half has this area.
    (region,) = find_regions(map_of(one_token(2)), 1.0, pixel_size_um=None)
    assert region.area_px == pytest.approx(64 * 4 * (0.5 - 0.5 * math.log(2)), rel=0.04)
    assert (region.centroid_row, region.centroid_column) == pytest.approx((20, 28))
    assert region.peak_evidence == 2


def test_the_area_of_a_disc_is_measured_within_two_percent():
    rows, columns = (np.mgrid[:20, :25] + 0.5) * 8
    values = 55 - np.hypot(rows - 80, columns - 90)
    (region,) = find_regions(map_of(values), 0.0, pixel_size_um=0.25)
    assert region.area_px == pytest.approx(math.pi * 55**2, rel=0.02)
    assert region.area_um2 == pytest.approx(math.pi * (55 * 0.25) ** 2, rel=0.02)
    assert (region.centroid_x_um, region.centroid_y_um) == pytest.approx((22.5, 20), abs=0.1)
    assert (region.top, region.left) == pytest.approx((25, 35), abs=2)
    assert (region.height, region.width) == pytest.approx((110, 110), abs=3)


def test_without_a_pixel_size_nothing_is_in_micrometres():
    (region,) = find_regions(map_of(one_token(2)), 1.0, pixel_size_um=None)
    assert region.area_um2 is region.centroid_x_um is region.centroid_y_um is region.length_um is None


@pytest.mark.parametrize("turned", [False, True])
def test_a_crack_along_a_diagonal_is_measured_along_it(turned):
    values = np.full((64, 64), -3.0)
    values[np.arange(10, 50), np.arange(10, 50)] = 3.0
    (region,) = find_regions(map_of(values[:, ::-1] if turned else values), 0.0, pixel_size_um=0.25)
    assert region.length_um == pytest.approx(40 * 8 * 0.25 * math.sqrt(2), rel=0.01)
    assert region.length_um > 1.4 * 0.25 * max(region.height, region.width)


@pytest.mark.parametrize(("at", "length"), [((slice(10, 12), slice(5, 55)), 100), ((slice(5, 55), slice(10, 12)), 400)])
def test_lengths_and_centroids_are_right_where_pixels_are_not_square(at, length):
    values = np.full((64, 64), -3.0)
    values[at] = 3.0
    (region,) = find_regions(map_of(values), 0.0, pixel_size_um=0.5, aspect=1 / 4)  # of 0.25 by 1 µm
    assert region.length_um == pytest.approx(length, rel=0.03)
    assert region.area_um2 == pytest.approx(region.area_px * 0.25, rel=0.01)
    expected = region.centroid_column * 0.25, region.centroid_row * 1.0
    assert (region.centroid_x_um, region.centroid_y_um) == pytest.approx(expected)


@given(st.integers(1, 70), st.integers(1, 70))
def test_a_region_everywhere_covers_the_micrograph_to_its_edges_whatever_the_padding(height, width):
    values = np.ones((-(-height // 8), -(-width // 8)))
    (region,) = find_regions(map_of(values, height, width), 0.5, pixel_size_um=None)
    assert region.area_px == height * width
    assert (region.top, region.left, region.height, region.width) == (0, 0, height, width)
    assert (region.centroid_row, region.centroid_column) == pytest.approx((height / 2, width / 2))


def test_a_map_that_stops_short_of_the_edge_is_continued_to_it():
    (region,) = find_regions(map_of(np.ones((2, 2)), 20, 19), 0.5, pixel_size_um=None)
    assert region.area_px == 20 * 19


@given(maps, st.floats(-5, 5))
def test_no_token_above_the_threshold_is_lost_and_peaks_are_those_of_the_map(values, threshold):
    found = find_regions(map_of(values), threshold, pixel_size_um=None)
    assert bool(found) == bool((values > np.float32(threshold)).any())
    if found:
        assert max(region.peak_evidence for region in found) == pytest.approx(values.max(), abs=1e-5)
    assert sum(region.area_px for region in found) <= 64 * values.size + len(found)


@given(maps, st.floats(-5, 5), st.sampled_from([1 / 3, 1 / 8, 1 / 13.7]))
def test_regions_lie_inside_the_micrograph_and_centroids_inside_their_boxes(values, threshold, scale):
    evidence = map_of(values, scale=scale)
    found = find_regions(evidence, threshold, pixel_size_um=1.0)
    assert bool(found) == bool((values > np.float32(threshold)).any())
    for region in found:
        assert 0 <= region.top < region.top + region.height <= evidence.height
        assert 0 <= region.left < region.left + region.width <= evidence.width
        assert region.top <= region.centroid_row <= region.top + region.height
        assert region.left <= region.centroid_column <= region.left + region.width
        assert region.mean_evidence <= region.peak_evidence + 1e-6
        assert region.length_um <= math.hypot(region.height, region.width) + 1e-6
        assert region.length_um > max(region.height, region.width) - 2  # boxes are of whole pixels


def test_diagonal_neighbours_are_one_region(monkeypatch):
    monkeypatch.setattr(module, "_MAX_SAMPLES", 1)  # one sample a token, as on a very large micrograph
    assert len(find_regions(map_of(np.eye(3)), 0.5, pixel_size_um=None)) == 1


def test_very_large_micrographs_are_measured_in_whole_tokens_of_the_right_area(monkeypatch):
    monkeypatch.setattr(module, "_MAX_SAMPLES", 35)
    (region,) = find_regions(map_of(one_token(2)), 1.0, pixel_size_um=0.5)
    assert (region.area_px, region.area_um2) == (64, 16.0)
    assert (region.top, region.left, region.height, region.width) == (16, 24, 8, 8)


def test_a_wide_weak_region_comes_before_a_small_strong_one():
    values = np.zeros((12, 12))
    values[1:6, 1:6] = 2.0
    values[9, 9] = 5.0
    values[9, 3] = 3.0
    found = find_regions(map_of(values), 1.0, pixel_size_um=None)
    assert [round(region.peak_evidence) for region in found] == [2, 5, 3]


def test_only_so_many_regions_are_listed_and_those_the_strongest():
    values = np.zeros((17, 17))
    values[::2, ::2] = np.arange(1, 82).reshape(9, 9)  # 81 regions
    found = find_regions(map_of(values), 0.5, pixel_size_um=None)
    assert [region.peak_evidence for region in found] == list(range(81, 81 - MAX_REGIONS, -1))


def test_the_longest_region_is_listed_however_many_are_stronger():
    values = np.zeros((21, 17))
    values[:17:2, ::2] = 20.0  # 81 regions
    values[19, :] = 0.6
    found = find_regions(map_of(values), 0.5, pixel_size_um=None)
    assert len(found) == MAX_REGIONS
    assert found[-1].width == max(region.width for region in found) == 17 * 8


def test_the_longest_is_listed_where_others_have_longer_boxes():
    values = np.full((64, 64), 0.45)
    values[2:62:3, :20] = 20.0  # 20 regions, 20 tokens long
    values[1:60:4, 45::4] = 20.0  # 75 small ones
    values[np.arange(40, 57), np.arange(24, 41)] = 0.6  # 17 rows and columns, so nearly 24 tokens
    found = find_regions(map_of(values), 0.5, pixel_size_um=1.0)
    assert len(found) == MAX_REGIONS
    assert found[-1].peak_evidence == pytest.approx(0.6)
    assert found[-1].length_um == max(region.length_um for region in found)
    assert found[-1].width < max(region.width for region in found)


def test_values_that_are_not_finite_are_in_no_region():
    values = one_token(2)
    values[0, 0], values[4, 6] = np.nan, np.inf
    (region,) = find_regions(map_of(values), 1.0, pixel_size_um=None)
    assert region.peak_evidence == 2


@given(hnp.arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))))
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


@given(masks, st.floats(0.2, 5))
def test_the_diameter_is_the_distance_of_the_two_corners_that_are_farthest_apart(mask, stretch):
    rows, columns = np.arange(mask.shape[0] + 1.0), stretch * np.arange(mask.shape[1] + 1.0)
    corners = np.array(
        [(rows[i + down], columns[j + right]) for i, j in np.argwhere(mask) for down in (0, 1) for right in (0, 1)]
    )
    farthest = np.linalg.norm(corners[:, None] - corners, axis=2).max()
    assert diameter(mask, rows, columns) == pytest.approx(farthest)
