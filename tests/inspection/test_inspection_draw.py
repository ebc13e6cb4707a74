from __future__ import annotations

import base64
import io
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fusion_diff import Micrograph
from fusion_diff.errors import ArgumentError, MicrographError
from fusion_diff.inspection import draw
from fusion_diff.verdict.regions import find_regions
from fusion_diff.verdict.result import EvidenceMap


def lab(colours):
    """CIELAB of sRGB bytes, for D65."""
    rgb = colours / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / [0.9505, 1, 1.089]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def evidence_of(values, scale=1 / 8):
    values = np.asarray(values, dtype=np.float32)
    return EvidenceMap(values, scale, round(values.shape[0] / scale), round(values.shape[1] / scale))


def spot(value=3.0, shape=(8, 10)):
    values = np.full(shape, -1.0)
    values[3:6, 5:8] = value
    return evidence_of(values)


def outlined(evidence, threshold=1.0, pixel_size_um=0.5):
    regions = find_regions(evidence, threshold, pixel_size_um=pixel_size_um)
    return np.asarray(draw.outlines(evidence, threshold, regions, pixel_size_um)), regions


def test_the_colours_grow_lighter_in_even_steps():
    assert draw.COLORMAP.shape == (256, 3)
    steps = np.diff(lab(draw.COLORMAP[::15].astype(float))[:, 0])
    assert (steps > 0).all()
    assert steps.std() / steps.mean() < 0.25


def test_the_heat_map_is_transparent_where_nothing_speaks_against_and_opaque_at_the_limit():
    evidence = evidence_of(np.linspace(-4, 4, 64)[None, :].repeat(8, 0))
    picture = np.asarray(draw.heat_map(evidence, 2.0).convert("RGBA"))
    values = evidence.resized(*picture.shape[:2])
    assert (picture[values <= 0][:, 3] == 0).all()
    assert (picture[values >= 2][:, 3] == 255).all()
    assert (picture[values >= 2][:, :3] == draw.COLORMAP[-1]).all()
    alpha = picture[0, :, 3].astype(int)
    assert (np.diff(alpha) >= 0).all()


def test_evidence_that_is_not_finite_does_not_stop_the_picture():
    picture = draw.heat_map(evidence_of([[np.nan, 1.0], [np.inf, -np.inf]]), 2.0)
    assert picture.size == (16, 16)


def test_one_limit_serves_a_report_and_no_outlier_sets_it():
    maps = [spot(5.5), spot(5.5), spot(500.0), spot(-1.0)]
    assert draw.heat_limit(maps, [1.0] * 4) == 6.0
    assert draw.heat_limit([], []) == 2.0
    assert draw.heat_limit([spot(0.1)], [8.0]) >= 12.0
    assert math.isfinite(draw.heat_limit([spot(np.inf)], [math.inf]))


@given(st.integers(16, 100_000), st.floats(1e-4, 10))
def test_scale_bars_have_a_round_length_and_take_a_fitting_part_of_the_width(width, pixel_size_um):
    bar = draw.scale_bar(width, pixel_size_um)
    text, unit = bar.label.split()
    length_um = float(text) * {"nm": 1e-3, "µm": 1.0, "mm": 1e3}[unit]
    assert bar.pixels * pixel_size_um == pytest.approx(length_um)
    assert f"{length_um:e}"[0] in "125"
    assert 0.3 * 0.39 * width <= bar.pixels <= 0.3 * width * 1.000001
    assert float(text) >= 1 or unit == "nm"
    assert float(text) < 1000


@given(st.integers(1, 100_000))
def test_without_a_pixel_size_the_scale_bar_counts_pixels(width):
    bar = draw.scale_bar(width, None)
    assert bar.label == f"{bar.pixels:.0f} px"
    assert bar.pixels == int(bar.pixels) >= 1


def test_a_region_is_outlined_and_its_inside_left_open():
    picture, (region,) = outlined(spot())
    zoom = picture.shape[1] / 80
    middle = picture[round(region.centroid_row * zoom), round(region.centroid_column * zoom)]
    assert tuple(middle) == (0, 0)
    edge_column = round((region.left + region.width) * zoom) - 2
    near = picture[round(region.centroid_row * zoom), edge_column - 6 : edge_column + 6]
    assert near[:, 0].max() == 255


def test_without_regions_only_the_scale_bar_is_drawn():
    picture, regions = outlined(spot(-1.0))
    assert regions == ()
    assert picture[: picture.shape[0] // 2].max() == 0
    assert picture[-60:, :500].max() == 255


def test_a_region_of_a_pixel_on_a_huge_micrograph_is_still_marked():
    values = np.full((600, 800), -1.0)
    values[300, 400] = 1.05
    picture, (region,) = outlined(evidence_of(values))
    zoom = picture.shape[1] / 6400
    row, column = round(region.centroid_row * zoom), round(region.centroid_column * zoom)
    assert picture[row - 6 : row + 7, column - 6 : column + 7, 0].max() == 255


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1)])
def test_odd_shapes_and_fifty_regions_can_be_drawn(shape):
    values = np.random.default_rng(0).normal(size=shape)
    picture, _ = outlined(evidence_of(values), threshold=0.0)
    assert max(picture.shape[:2]) == draw.OUTLINE_SIDE


def test_a_number_without_a_free_place_is_left_out():
    evidence = spot()
    regions = find_regions(evidence, 1.0, pixel_size_um=0.5)
    few, many = (np.asarray(draw.outlines(evidence, 1.0, regions * count, 0.5)) for count in (9, 50))
    assert np.array_equal(few, many)


def test_a_strip_too_narrow_for_digits_has_none():
    evidence = evidence_of(np.tile([-1.0, -1.0, 3.0], (1, 20)))
    regions = find_regions(evidence, 1.0, pixel_size_um=None)
    assert len(regions) > 1
    there, back = (np.asarray(draw.outlines(evidence, 1.0, each, None)) for each in (regions, regions[::-1]))
    assert np.array_equal(there, back)


def test_the_micro_sign_is_drawn_though_the_font_lacks_it():
    layers = [Image.new("L", (400, 100)) for _ in range(2)]
    for layer, label in zip(layers, ("50 µm", "50 um"), strict=True):
        draw._draw_scale_bar(layer, draw.ScaleBar(200, label), 1.0)
    micro, latin = (np.asarray(layer).astype(int) for layer in layers)
    assert ((micro - latin) >= 0).all()
    assert 10 < ((micro - latin) > 0).sum() < 60


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pictures_become_addresses_that_hold_them(kind):
    address = draw.data_uri(Image.new("L", (20, 10), 128), kind)
    head, _, body = address.partition(",")
    assert head == f"data:image/{kind.lower()};base64"
    assert Image.open(io.BytesIO(base64.b64decode(body))).size == (20, 10)


@pytest.mark.parametrize("shape", [(160, 200), (1000, 1250), (160, 200, 3)])
def test_the_evidence_is_drawn_over_its_micrograph(make_inspection, shape):
    grey = np.full(shape, 128, dtype=np.uint8)
    grey[:8] = 64  # a micrograph needs contrast
    if len(shape) == 3:
        grey[..., 2] //= 4  # of a yellow glaze
    values = np.full((shape[0] // 8, shape[1] // 8), -1, dtype=np.float32)
    values[3:6, 5:8] = 3
    evidence = EvidenceMap(values, 1 / 8, *shape[:2])
    inspection = make_inspection(
        evidence=evidence, threshold=1.0, regions=find_regions(evidence, 1.0, pixel_size_um=None)
    )
    micrograph = Micrograph.from_array(grey)
    picture = draw.draw_evidence(micrograph, replace(inspection, file_sha256=micrograph.sha256))
    assert (picture.mode, max(picture.size)) == ("RGB", draw.OUTLINE_SIDE)
    pixels, zoom = np.asarray(picture).astype(int), draw.OUTLINE_SIDE / shape[1]
    spot = pixels[round(36 * zoom), round(52 * zoom)]
    elsewhere = pixels[round(140 * zoom), round(180 * zoom)]
    assert np.ptp(elsewhere) == 0, "grey where nothing speaks against it"
    assert spot[0] - spot[2] > 50, "yellow to red at the peak"


def test_the_colours_are_told_and_end_where_asked(make_inspection):
    grey = Micrograph.from_array(np.arange(32 * 64).reshape(32, 64) % 256)
    inspection = make_inspection(file_sha256=grey.sha256)
    usual, wide = (np.asarray(draw.draw_evidence(grey, inspection, limit=limit)).astype(int) for limit in (None, 30.0))
    key = usual[453, 745:937]  # in the lower right corner
    assert key[0].tolist() == draw.heat_colours()[0, :3].tolist()
    assert key[-1].tolist() == draw.heat_colours()[-1, :3].tolist()
    peak = (16 * 15, 32 * 15)
    assert usual[peak].sum() > wide[peak].sum() + 100, "paler where the limit is nearer"
    for limit in (0, -1.0, float("nan"), float("inf"), "2"):
        with pytest.raises(ArgumentError, match="limit is"):
            draw.draw_evidence(grey, inspection, limit=limit)


def test_evidence_that_is_drawn_over_another_file_is_warned_of(make_inspection):
    grey = Micrograph.from_array(np.arange(32 * 64).reshape(32, 64) % 256)
    for other in ({"file_sha256": "0" * 64}, {"file_sha256": grey.sha256, "page": 1}):
        with pytest.warns(UserWarning, match="the verdict is on another file or page"):
            draw.draw_evidence(grey, make_inspection(**other))


def test_evidence_is_not_drawn_over_another_micrograph(make_inspection):
    with pytest.raises(ArgumentError, match=r"has 64 x 32 pixels, but the verdict is on one of 32 x 64"):
        draw.draw_evidence(Micrograph.from_array(np.arange(64 * 32).reshape(64, 32) % 256), make_inspection())
    with pytest.raises(MicrographError):
        draw.draw_evidence(np.zeros((32, 64), dtype=np.uint8), make_inspection())
