"""Evidence maps in pixels: whole, in windows, and resized."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.errors import ArgumentError, MicrographError
from fusion_diff.verdict.result import EvidenceMap, Inspection, Region

HEIGHT, WIDTH = 32, 45
EVIDENCE = EvidenceMap(np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32), 1 / 8, HEIGHT, WIDTH)


@given(st.data())
def test_a_window_is_cut_out_of_the_whole_map(data):
    top, left = data.draw(st.integers(0, HEIGHT - 1)), data.draw(st.integers(0, WIDTH - 1))
    height = data.draw(st.none() | st.integers(1, HEIGHT - top))
    width = data.draw(st.none() | st.integers(1, WIDTH - left))
    bottom = HEIGHT if height is None else top + height
    right = WIDTH if width is None else left + width
    np.testing.assert_array_equal(EVIDENCE.native(top, left, height, width), EVIDENCE.native()[top:bottom, left:right])


@pytest.mark.parametrize(
    "window",
    [
        {"top": -5},
        {"top": HEIGHT},
        {"top": 40},
        {"left": -1},
        {"left": WIDTH},
        {"height": 0},
        {"width": 0},
        {"top": 1, "height": HEIGHT},
        {"left": 44, "width": 2},
    ],
)
def test_a_window_that_leaves_the_micrograph_is_refused(window):
    with pytest.raises(MicrographError, match="does not lie within the micrograph of 32x45; clip it"):
        EVIDENCE.native(**window)


@pytest.mark.parametrize("window", [(None,), (0, 0.5), (0, 0, "8"), (0, 0, 8, float("nan"))])
def test_a_window_that_is_not_in_whole_pixels_is_refused(window):
    with pytest.raises(MicrographError, match=r"a window cannot be given as .*; give integers"):
        EVIDENCE.native(*window)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"values": None}, "give an evidence map a NumPy array of floats"),
        ({"values": [[1.0]]}, "give an evidence map a NumPy array of floats"),
        ({"values": np.zeros(4)}, "give an evidence map a NumPy array of floats"),
        ({"values": np.zeros((0, 4))}, "give an evidence map a NumPy array of floats"),
        ({"values": np.zeros((4, 6), object)}, "give an evidence map a NumPy array of floats"),
        ({"scale": None}, "32 x 45 pixels with None tokens per pixel; give"),
        ({"scale": float("nan")}, "with nan tokens"),
        ({"height": 0}, "0 x 45 pixels with"),
        ({"width": 10**30}, "give integers"),
        ({"width": 45.5}, "32 x 45.5 pixels"),
    ],
)
def test_a_map_that_cannot_be_is_refused(changed, says):
    with pytest.raises(ArgumentError, match=says):
        dataclasses.replace(EVIDENCE, **changed)


@given(st.integers(1, 99), st.integers(1, 99))
def test_a_map_can_have_any_size_and_stays_within_its_values(height, width):
    resized = EVIDENCE.resized(height, width)
    assert resized.shape == (height, width)
    assert resized.dtype == np.float32
    assert EVIDENCE.values.min() - 1e-6 <= resized.min() <= resized.max() <= EVIDENCE.values.max() + 1e-6


@pytest.mark.parametrize("size", [(0, 0), (10.5, 10), (10, -1), ("10", 10), (None, 10), (10**30, 1)])
def test_a_size_that_no_map_can_have_is_refused(size):
    with pytest.raises(MicrographError, match=r"cannot be resized to .*; give integers from 1"):
        EVIDENCE.resized(*size)


def test_a_map_in_the_size_of_the_micrograph_is_the_native_one():
    np.testing.assert_allclose(EVIDENCE.resized(HEIGHT, WIDTH), EVIDENCE.native(), atol=1e-5)


def test_numpy_takes_a_map_for_its_values():
    whole = EvidenceMap(np.arange(6, dtype=np.float32).reshape(2, 3), 1 / 8, 16, 24)
    assert np.array_equal(np.asarray(whole), whole.values)
    assert np.asarray(whole, dtype=np.float64).dtype == np.float64
    changed = np.array(whole)
    changed[0, 0] = 9
    assert whole.values[0, 0] == 0


def test_a_map_is_shown_in_a_line_and_cannot_be_changed():
    values = np.asarray([[-1.25, 0.5], [2, 3]], dtype=np.float32)
    evidence = EvidenceMap(values, 1 / 8, 16, 15)
    assert repr(evidence) == "EvidenceMap(2 x 2 tokens of 16 x 15 pixels, -1.25 to 3.00 log-odds)"
    for each in (evidence, copy.deepcopy(evidence), pickle.loads(pickle.dumps(evidence))):
        with pytest.raises(ValueError, match="read-only"):
            each.values[0, 0] = 9
    values[0, 0] = -2  # the array that was given is the caller's
    assert evidence.values[0, 0] == -1.25


def test_every_field_of_a_verdict_is_explained_where_help_looks():
    for kind in (Inspection, EvidenceMap, Region):
        explained = set(re.findall(r"^    (\w+): ", inspect.getdoc(kind).partition("Raises:")[0], flags=re.MULTILINE))
        assert explained == {field.name for field in dataclasses.fields(kind)}


def test_a_verdict_is_shown_in_a_line(make_inspection):
    assert repr(make_inspection()) == "Inspection('line-7/a.tif': not authentic, score 0.031, 1 region)"
    beyond = make_inspection(in_scope=False, calibrated=False, page=2, regions=())
    told = "Inspection('line-7/a.tif' page 2: out of scope, score 0.031 (not calibrated), 0 regions)"
    assert repr(beyond) == told
