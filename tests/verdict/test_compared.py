"""Summary of references: sides, pixel sizes, and comparable magnifications."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.verdict.compared import SIZE_FACTOR, Compared, stored_pixel_size

SIZES = st.floats(1e-4, 100)


def compared(*sizes: float | None, others: int = 0) -> Compared:
    labels = ["sound"] * (len(sizes) - others) + ["crack"] * others
    sides = {"authentic": len(sizes) - others, "not authentic": others}
    return Compared.of("sound", labels, specimens=len(sizes), figures={}, pixel_sizes_um=sizes, specimens_by_side=sides)


def test_classes_are_counted_the_authentic_one_first():
    it = compared(0.5, 0.5, None, others=2)
    assert list(it.counts.items()) == [("sound", 1), ("crack", 2)]
    assert it.sides == {"authentic": 1, "not authentic": 2}
    assert (it.with_pixel_size, it.pixel_sizes) == (2, "0.5 µm")


@given(st.lists(SIZES, min_size=1, max_size=4), SIZES)
def test_a_size_is_comparable_within_the_factor_of_the_range(sizes, size):
    it = compared(*sizes)
    assert all(it.comparable(each) for each in sizes)
    assert it.comparable(size) or size > max(sizes) * SIZE_FACTOR or size < min(sizes) / SIZE_FACTOR
    assert it.comparable(max(sizes) * SIZE_FACTOR)
    assert not it.comparable(max(sizes) * SIZE_FACTOR * 1.01)
    assert not it.comparable(min(sizes) / SIZE_FACTOR / 1.01)


@pytest.mark.parametrize(("sizes", "size"), [((0.5,), None), ((None, None), 0.5), ((), 3.0)])
def test_what_is_unknown_is_taken_to_be_comparable(sizes, size):
    assert compared(*sizes).comparable(size)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((0.2, 0.3), []),
        ((None, None), []),
        ((0.24, 0.24, 24.0), ["the pixel sizes of the references differ, from 0.24 to 24 µm"]),
        ((0.24, None, 0.24), ["the pixel size is known for only 2 of 3 references"]),
        ((0.2, 0.4, None), ["differ, from 0.2 to 0.4 µm", "known for only 2 of 3 references"]),
    ],
)
def test_references_of_several_magnifications_or_of_unknown_ones_are_warned_of(sizes, said):
    warnings = compared(*sizes).warnings()
    assert len(warnings) == len(said)
    assert all(part in line for part, line in zip(said, warnings, strict=True))


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), float("inf"), True, "0.5", [0.5]])
def test_a_stored_size_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="not a pixel size"):
        stored_pixel_size(wrong)
