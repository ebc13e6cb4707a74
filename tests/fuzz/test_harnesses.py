"""Every harness on its seeds and on mutations that are the same every time; the search itself is run.py's."""

from __future__ import annotations

import random

import pytest
from run import NAMES, load

MUTATIONS = 150


def test_there_is_a_harness_for_every_reader():
    assert {"bmp", "checkpoint", "databar", "enrolment", "folder", "ifd", "jpeg", "marks", "metadata", "png"} < set(
        NAMES
    )
    assert {"table", "tensors", "tiff"} < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_and_their_mutations_are_read_or_refused_as_documented(name):
    harness = load(name)
    rng = random.Random(name)
    seeds = harness.seeds()
    assert max(map(len, seeds)) <= harness.MAX_LEN
    for seed in seeds:
        harness.check(seed)
    for _ in range(MUTATIONS):
        data = harness.mutate(rng.choice(seeds), rng)
        for _ in range(rng.randrange(3)):
            data = harness.mutate(data, rng)
        harness.check(data[: harness.MAX_LEN])


@pytest.mark.parametrize("name", NAMES)
def test_mutations_change_their_input(name):
    harness = load(name)
    rng = random.Random(1)
    seed = harness.seeds()[0]
    assert sum(harness.mutate(seed, rng) != seed for _ in range(20)) > 10
