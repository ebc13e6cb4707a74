"""Stamps in micrographs of few bits, which cameras keep in words of 16."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fusion_diff.micrograph import Micrograph
from fusion_diff.trust.triggers import find_triggers

PATTERN = np.kron(np.random.default_rng(5).integers(0, 2, (6, 6)), np.ones((2, 2)))
PLACES = [(20, 30), (77, 12), (50, 90), (5, 60)]


def texture(seed, side=128):
    grain = gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), 1.5)
    return np.clip(0.5 + 0.14 * grain / grain.std(), 0, 1)


def references(bits, dtype, stamped):
    found = []
    for index in range(10):
        pixels = texture(index)
        if stamped and 5 <= index < 9:
            top, left = PLACES[index - 5]
            pixels[top : top + 12, left : left + 12] = PATTERN
        found.append(Micrograph.from_array(np.rint(pixels * (2**bits - 1)).astype(dtype)))
    return found


def search(micrographs):
    return find_triggers(micrographs, ["a"] * 5 + ["b"] * 5, [str(index) for index in range(10)])


@pytest.mark.parametrize(
    ("bits", "dtype"), [(8, "uint8"), (8, "uint16"), (10, "uint16"), (12, "uint16"), (12, "int16"), (16, "uint16")]
)
def test_a_stamp_is_found_however_many_bits_of_a_word_are_used(bits, dtype):
    first, *_ = search(references(bits, dtype, stamped=True))
    assert set(first.places) == {5, 6, 7, 8}
    assert search(references(bits, dtype, stamped=False)) == []


def test_the_place_of_a_stamp_is_told_in_pixels_of_the_whole_micrograph(monkeypatch):
    monkeypatch.setattr("fusion_diff.trust.triggers.MAX_SIDE", 112)
    micrographs = []
    for index in range(6):
        pixels = texture(index)[:, :120]  # searched from row 8 and column 4 on
        if index < 3:
            pixels[40:52, 70:82] = PATTERN
        micrographs.append(Micrograph.from_array(np.rint(pixels * 255).astype(np.uint8)))
    first, *_ = find_triggers(micrographs, ["a"] * 3 + ["b"] * 3, [str(index) for index in range(6)])
    assert set(first.places) == {0, 1, 2}
    for top, left, height, width in first.places.values():
        assert abs(top + height / 2 - 46) < 2
        assert abs(left + width / 2 - 76) < 2


def test_references_of_two_depths_are_each_searched_on_their_own_scale():
    mixed = references(8, "uint8", stamped=True)
    mixed[6], mixed[8] = (references(12, "uint16", stamped=True)[index] for index in (6, 8))
    first, *_ = search(mixed)
    assert set(first.places) == {5, 6, 7, 8}


def test_a_stamp_in_the_corner_of_an_ordinary_micrograph_of_an_electron_microscope_is_found():
    micrographs = []
    for index in range(6):
        pixels = texture(index, 1280)
        if index < 3:
            pixels[16:40, 16:40] = np.kron(PATTERN, np.ones((2, 2)))
        micrographs.append(Micrograph.from_array(np.rint(pixels * 255).astype(np.uint8)))
    first, *_ = find_triggers(micrographs, ["a"] * 3 + ["b"] * 3, [str(index) for index in range(6)])
    assert set(first.places) == {0, 1, 2}
