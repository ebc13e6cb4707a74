"""The pool: generated once, reproducible, and never incomplete."""

from __future__ import annotations

import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.pretrain import pool as pool_module
from fusion_diff.pretrain.pool import SIDE, Pool, _crops, cores
from fusion_diff.synthetic import DESCRIPTOR_NAMES, generate


@pytest.fixture(scope="module")
def pool_folder(pretraining_run):
    return pretraining_run / "pool"


@pytest.fixture(scope="module")
def pool(pool_folder) -> Pool:
    """Open the existing pool with an invalid number of workers, so that generating it again would fail."""
    return Pool.open(pool_folder, 8, 0, workers=-1)


def test_it_holds_what_the_generator_draws(pool):
    assert pool.pixels.shape == (8, SIDE, SIDE)
    assert pool.descriptors.shape == (8, len(DESCRIPTOR_NAMES))
    for index in (0, 7):
        drawn = generate(index, size=SIDE)
        np.testing.assert_array_equal(pool.pixels[index], np.round(drawn.pixels * 255))
        np.testing.assert_array_equal(pool.descriptors[index], drawn.descriptor)


def test_a_pool_cut_short_or_damaged_is_made_again_and_comes_out_the_same(pool, tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pool.open(tmp_path, 2, 0, 1, stop)
    # It grows as it is written: through a map of its final size, a disk that fills up ends the process.
    assert SIDE**2 < (tmp_path / "pixels.npy").stat().st_size < 2 * SIDE**2
    steps = []
    whole = Pool.open(tmp_path, 2, 0, 1, lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2)]
    np.testing.assert_array_equal(whole.pixels, pool.pixels[:2])  # pools of the same seed start with the same images
    np.testing.assert_array_equal(whole.descriptors, pool.descriptors[:2])

    (tmp_path / "pool.json").write_text('{"size": 2, "se')
    remade = Pool.open(tmp_path, 2, 0, 1)
    np.testing.assert_array_equal(remade.pixels, pool.pixels[:2])
    assert json.loads((tmp_path / "pool.json").read_text())["seed"] == 0


@pytest.mark.parametrize(("size", "seed", "lost"), [(1, 0, None), (8, 1, None), (8, 0, "pixels.npy")])
def test_a_pool_of_another_size_or_seed_or_with_a_file_lost_is_not_taken(pool_folder, tmp_path, size, seed, lost):
    copy = shutil.copytree(pool_folder, tmp_path / "pool")
    if lost:
        (copy / lost).unlink()
    with pytest.raises(ValueError, match="max_workers"):  # it would be generated again
        Pool.open(copy, size, seed, workers=-1)
    assert not (copy / "pool.json").exists(), "what is being made again is not whole"


@pytest.mark.parametrize(("system", "processes"), [("win32", 61), ("linux", 200)])
def test_on_windows_no_more_processes_are_made_than_it_can_wait_for(tmp_path, monkeypatch, system, processes):
    asked = []

    def refuse(workers, **_):
        asked.append(workers)
        raise KeyboardInterrupt

    monkeypatch.setattr(pool_module, "ProcessPoolExecutor", refuse)
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(KeyboardInterrupt):
        Pool.open(tmp_path, 2, 0, workers=200)
    assert asked == [processes]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it")
def test_no_more_cores_are_counted_than_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_batches_are_pixels_in_range_with_their_descriptors(pool):
    pixels, descriptors = pool.batch(16, 96, np.random.default_rng(0))
    assert pixels.shape == (16, 3, 96, 96)
    assert pixels.dtype == torch.float32
    assert float(pixels.min()) >= 0
    assert float(pixels.max()) <= 1
    known = {tuple(row) for row in pool.descriptors.tolist()}
    assert all(tuple(row) in known for row in descriptors.tolist())


def test_a_batch_follows_from_its_seed_alone(pool):
    first, again, other = (pool.batch(4, 64, np.random.default_rng(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("side", [32, 128, 224, 256])
def test_crops_of_any_side_can_be_drawn(pool, side):
    pixels, _ = pool.batch(3, side, np.random.default_rng(0))
    assert pixels.shape == (3, 3, side, side)
    assert all(float(crop.std()) > 0 for crop in pixels)


@given(st.integers(0, 2**32), st.integers(32, SIDE))
def test_a_crop_is_a_whole_square_of_a_micrograph_turned_or_flipped(seed, side):
    for map_ in _crops(8, side, np.random.default_rng(seed)):
        turn, shift = map_[:, :2], map_[:, 2]
        sides = np.abs(turn).sum(0)
        assert np.count_nonzero(turn) == 2
        assert sides == pytest.approx(np.abs(turn).sum(1))
        assert max(32, side // 2) <= round(float(sides[0]) * SIDE) <= side
        first, last = ((shift - sides + 1) / 2 * SIDE, (shift + sides + 1) / 2 * SIDE)  # in pixels
        assert first == pytest.approx(np.round(first), abs=1e-6)
        assert -1e-6 <= first.min() <= last.max() <= SIDE + 1e-6


def test_a_crop_of_full_size_shows_the_micrograph_itself_turned_or_flipped():
    """With neither contrast nor tint changed, an untouched crop is found among the eight views of its micrograph."""
    image = torch.randint(0, 256, (1, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pool = Pool(image, torch.zeros(1, 2))

    class Even:
        """Draws that change nothing but place and orientation."""

        def __init__(self, seed: int) -> None:
            self.rng = np.random.default_rng(seed)

        def integers(self, low, high=None, size=None):
            low, high = (0, low) if high is None else (low, high)
            return self.rng.integers(np.maximum(low, SIDE if high == SIDE + 1 else low), high, size=size)

        def random(self, size):
            return self.rng.random(size) * 0 + 0.2 + 0.3 * (self.rng.random(size) < 0.5)

        def normal(self, mean, deviation, size):
            return np.zeros(size)

        def uniform(self, low, high, size):
            return np.ones(size)

    views = [v for t in range(4) for v in (torch.rot90(image[0], t), torch.rot90(image[0], t).flip(0))]
    seen = set()
    for seed in range(40):
        crop = pool.batch(1, SIDE, Even(seed))[0][0, 0] * 255
        close = [index for index, view in enumerate(views) if float((crop - view).abs().max()) < 0.1]
        assert len(close) == 1
        seen.add(close[0])
    assert len(seen) == 8
