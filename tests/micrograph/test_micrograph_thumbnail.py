"""Thumbnails show the whole micrograph at a small size."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from fusion_diff.micrograph import Micrograph
from fusion_diff.micrograph.thumbnail import thumbnail


def test_thumbnails_average_the_pixels_that_they_merge():
    pixels = np.tile(np.array([[0, 100], [100, 200]], dtype=np.float32), (50, 50))
    small = thumbnail(Micrograph.from_array(pixels), max_side=50)
    assert small.shape == (50, 50)
    assert set(np.unique(small)) <= {127, 128}


def test_thumbnails_keep_the_aspect_and_colour_and_are_never_enlarged():
    pixels = np.random.default_rng(0).integers(0, 65535, (90, 301, 3)).astype(np.uint16)
    micrograph = Micrograph.from_array(pixels)
    assert thumbnail(micrograph, max_side=100).shape == (30, 100, 3)
    assert thumbnail(micrograph, max_side=400).shape == (90, 301, 3)


def test_contrast_is_stretched_between_the_percentiles():
    pixels = np.linspace(1000, 2000, 64 * 64).reshape(64, 64)
    small = thumbnail(Micrograph.from_array(pixels), max_side=64)
    assert (small.min(), small.max()) == (0, 255)
    assert small.mean() == pytest.approx(127.5, abs=1)


def test_reading_in_bands_changes_nothing(monkeypatch):
    micrograph = Micrograph.from_array(np.random.default_rng(0).uniform(size=(257, 131)))
    whole = thumbnail(micrograph, max_side=60)
    monkeypatch.setattr("fusion_diff.micrograph.storage.BAND_PIXELS", 2000)
    np.testing.assert_array_equal(thumbnail(micrograph, max_side=60), whole)


@pytest.mark.parametrize("shape", [(257, 131), (90, 301, 3), (32, 5000), (5000, 32), (61, 61), (32, 5000, 3)])
@pytest.mark.parametrize("values", [100, 10_000])
def test_every_pixel_counts_once_whatever_the_bands(monkeypatch, shape, values):
    levels = np.random.default_rng(0).integers(0, 65535, shape).astype(np.uint16)
    micrograph = Micrograph.from_array(levels)
    monkeypatch.setattr("fusion_diff.micrograph.storage.BAND_PIXELS", values)
    small = thumbnail(micrograph, max_side=60)
    low, high = micrograph.contrast_range
    rows, columns = (np.arange(parts + 1) * side // parts for parts, side in zip(small.shape[:2], shape, strict=False))
    for row, column in np.ndindex(small.shape[:2]):
        merged = levels[rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
        expected = np.clip((merged.mean(axis=(0, 1)) - low) / (high - low), 0, 1) * 255
        np.testing.assert_allclose(small[row, column], expected, atol=0.51)


def test_a_wide_micrograph_is_read_in_bands_too(monkeypatch):
    monkeypatch.setattr("fusion_diff.micrograph.storage.BAND_PIXELS", 2**16)
    micrograph = Micrograph.from_array(np.random.default_rng(0).integers(0, 255, (32, 2**16), dtype=np.uint8))
    micrograph.contrast_range  # noqa: B018 (its own memory does not count)
    thumbnail(micrograph, max_side=640)  # imports
    tracemalloc.start()
    try:
        assert thumbnail(micrograph, max_side=640).shape == (1, 640)
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**16
    finally:
        tracemalloc.stop()
