from __future__ import annotations

import numpy as np
import pytest

from fusion_diff.synthetic import BUILTIN_AUTHENTIC, BUILTIN_LABELS, builtin_references, builtin_samples


def test_references_come_in_equal_shots_of_each_class() -> None:
    micrographs, labels = builtin_references(shots=3, size=64)
    assert labels == [label for label in BUILTIN_LABELS for _ in range(3)]
    assert [item.flaw for item in micrographs] == labels
    assert BUILTIN_LABELS[0] == BUILTIN_AUTHENTIC


def test_references_and_samples_are_reproducible_and_disjoint() -> None:
    first, again = builtin_references(shots=2, size=64)[0], builtin_references(shots=2, size=64)[0]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
    seen = {item.pixels.tobytes() for item in first}
    assert not seen & {item.pixels.tobytes() for item in builtin_samples(4, size=64)[0]}


def test_more_shots_extend_fewer() -> None:
    few, many = builtin_samples(1, size=64)[0], builtin_samples(3, size=64)[0]
    np.testing.assert_array_equal(few[1].pixels, many[3].pixels)


def test_lots_differ() -> None:
    one, other = builtin_references(1, lot=0, size=64)[0][0], builtin_references(1, lot=1, size=64)[0][0]
    assert one.pixel_size_um != other.pixel_size_um


def test_counterfeits_of_a_lot_differ_from_its_sound_specimens_more_than_those_among_themselves() -> None:
    micrographs, labels = builtin_samples(6)
    # Share of fine detail: a plain measure of grain size.
    detail = np.asarray(
        [np.abs(np.diff(item.pixels, axis=1)).mean() / item.pixels.std() for item in micrographs], dtype=float
    )
    sound = detail[[label == "sound" for label in labels]]
    fake = detail[[label == "counterfeit" for label in labels]]
    assert abs(sound.mean() - fake.mean()) > 2 * max(sound.std(), fake.std())


def test_no_shots_are_refused() -> None:
    with pytest.raises(ValueError, match="per class"):
        builtin_references(shots=0)
