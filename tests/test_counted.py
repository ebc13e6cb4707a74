"""Numbers and their nouns."""

from __future__ import annotations

import pytest

from fusion_diff.counted import counted, sized


@pytest.mark.parametrize(("count", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1200, "1,200 images")])
def test_one_of_something_has_no_s(count, text):
    assert counted(count, "image") == text


def test_other_plurals_are_given():
    assert [counted(count, "image was", "images were") for count in (1, 2)] == ["1 image was", "2 images were"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "1 byte"), (5000, "5,000 bytes"), (2**20, "1 MiB"), (3 * 2**19, "1.5 MiB"), (2**31, "2,048 MiB")],
)
def test_sizes_are_told_in_mebibytes_from_one_on(count, text):
    assert sized(count) == text
