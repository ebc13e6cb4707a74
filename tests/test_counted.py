"""Numbers and their nouns."""

from __future__ import annotations

import pytest

from fusion_diff.counted import counted


@pytest.mark.parametrize(("count", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1200, "1,200 images")])
def test_one_of_something_has_no_s(count, text):
    assert counted(count, "image") == text


def test_other_plurals_are_given():
    assert [counted(count, "image was", "images were") for count in (1, 2)] == ["1 image was", "2 images were"]
