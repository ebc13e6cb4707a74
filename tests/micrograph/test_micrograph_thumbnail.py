"""Thumbnails show the whole micrograph at a small size."""

from __future__ import annotations

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
    monkeypatch.setattr("fusion_diff.micrograph.thumbnail.BAND_PIXELS", 2000)
    np.testing.assert_array_equal(thumbnail(micrograph, max_side=60), whole)
