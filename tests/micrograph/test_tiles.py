"""Tiles cover every token of a micrograph once and hold its pixels unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.micrograph import Micrograph
from fusion_diff.micrograph.tiles import MARGIN, Grid

TILE, STRIDE = 224, 8
SIDES = st.integers(32, 1000)


def layout(height: int, width: int) -> Grid:
    return Grid.of(height, width, tile=TILE, stride=STRIDE)


def noise(*shape: int, levels: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, levels, shape, dtype=np.uint16)


def stretched(micrograph: Micrograph) -> np.ndarray:
    low, high = micrograph.contrast_range
    return np.clip((micrograph.pixels - np.float32(low)) / np.float32(high - low), 0, 1)


@given(SIDES, SIDES)
def test_kept_spans_partition_the_grid(height, width):
    grid = layout(height, width)
    owners = np.zeros((grid.rows, grid.columns), dtype=int)
    for tile in grid.tiles():
        owners[slice(*tile.rows), slice(*tile.columns)] += 1
    assert (owners == 1).all()


@given(SIDES, SIDES)
def test_each_tile_lies_on_the_grid_and_holds_what_it_answers_for(height, width):
    grid = layout(height, width)
    for tile in grid.tiles():
        for first, (begin, end), count in ((tile.top, tile.rows, grid.rows), (tile.left, tile.columns, grid.columns)):
            assert 0 <= first <= begin < end <= first + grid.side <= count


@given(SIDES, SIDES)
def test_inner_edges_of_a_tile_are_left_to_its_neighbour(height, width):
    grid = layout(height, width)
    for tile in grid.tiles():
        for first, (begin, end), count in ((tile.top, tile.rows, grid.rows), (tile.left, tile.columns, grid.columns)):
            assert first == 0 or begin - first >= MARGIN
            assert first + grid.side == count or first + grid.side - end >= MARGIN


@given(SIDES, SIDES)
def test_the_grid_covers_the_micrograph_and_no_more_than_a_token_beyond(height, width):
    grid = layout(height, width)
    assert grid.scale * STRIDE >= 1
    for tokens, side in ((grid.rows, height), (grid.columns, width)):
        assert side - 1e-4 <= tokens / grid.scale < side + 1 / grid.scale + 1e-6


@pytest.mark.parametrize(
    ("size", "shape", "tiles"),
    [((224, 224), (28, 28), 1), ((224, 225), (28, 29), 2), ((448, 224), (56, 28), 3), ((112, 112), (28, 28), 1)],
)
def test_grids_of_known_sizes(size, shape, tiles):
    grid = layout(*size)
    assert (grid.rows, grid.columns) == shape
    assert len(list(grid.tiles())) == tiles


@pytest.mark.parametrize("size", [(224, 224), (240, 512), (300, 301), (431, 227)])
def test_at_native_scale_a_tile_shows_the_very_pixels(size):
    micrograph = Micrograph.from_array(noise(*size))
    grid, whole = layout(*size), stretched(micrograph)
    padded = np.pad(whole, ((0, STRIDE), (0, STRIDE)), mode="edge")
    for tile in grid.tiles():
        top, left = tile.top * STRIDE, tile.left * STRIDE
        read = grid.read(micrograph, tile)
        assert read.dtype == np.float32
        assert read.shape == (3, TILE, TILE)
        for channel in read:
            np.testing.assert_array_equal(channel, padded[top : top + TILE, left : left + TILE])


def test_colour_is_kept_in_the_order_of_the_file():
    pixels = noise(240, 260, 3)
    pixels[..., 0] //= 4
    micrograph = Micrograph.from_array(pixels)
    grid, whole = layout(240, 260), stretched(micrograph)
    tile = next(iter(grid.tiles()))
    np.testing.assert_array_equal(grid.read(micrograph, tile), np.moveaxis(whole[:224, :224], 2, 0))


@given(st.integers(32, 400), st.integers(32, 223), st.booleans(), st.integers(0, 5))
def test_enlarged_micrographs_stay_in_range(height, width, colour, seed):
    shape = (height, width, 3) if colour else (height, width)
    micrograph = Micrograph.from_array(noise(*shape, levels=65536, seed=seed))
    grid = layout(height, width)
    for tile in list(grid.tiles())[:2]:
        read = grid.read(micrograph, tile)
        assert read.shape == (3, TILE, TILE)
        assert read.dtype == np.float32
        assert float(read.min()) >= 0
        assert float(read.max()) <= 1


def test_enlarging_keeps_a_ramp_a_ramp_in_its_place():
    ramp = np.repeat(np.arange(100, dtype=np.uint16)[None], 100, axis=0)
    micrograph = Micrograph.from_array(ramp)
    read = layout(100, 100).read(micrograph, next(iter(layout(100, 100).tiles())))
    low, high = micrograph.contrast_range
    native = (np.arange(TILE) + 0.5) / 2.24 - 0.5
    middle = slice(20, -20)
    np.testing.assert_allclose(read[0, 0, middle], ((native - low) / (high - low))[middle], atol=1e-3)
    np.testing.assert_allclose(read[0], np.broadcast_to(read[0, :1], read[0].shape), atol=1e-5)


def test_tiles_of_an_enlarged_micrograph_agree_where_they_overlap():
    micrograph = Micrograph.from_array(noise(100, 400))
    grid = layout(100, 400)
    first, second = list(grid.tiles())[:2]
    overlap = (first.left + grid.side - second.left) * STRIDE
    assert overlap > 0
    one, other = grid.read(micrograph, first)[..., -overlap:], grid.read(micrograph, second)[..., :overlap]
    np.testing.assert_allclose(one, other, atol=5e-3)  # the spline uses only six pixels beyond a tile


def test_contrast_is_stretched_over_the_micrograph_and_not_the_tile():
    pixels = np.concatenate([noise(224, 300, levels=50), noise(224, 300, levels=5000)], axis=1)
    micrograph, grid = Micrograph.from_array(pixels), layout(224, 600)
    dark, *_, bright = (grid.read(micrograph, tile) for tile in grid.tiles())
    assert float(dark[..., :200].max()) < 0.02
    assert float(bright.max()) == 1


@given(st.data())
def test_a_mask_marks_the_tokens_it_covers(data):
    height, width = data.draw(SIDES), data.draw(SIDES)
    grid = layout(height, width)
    row, column = data.draw(st.integers(0, grid.rows - 1)), data.draw(st.integers(0, grid.columns - 1))
    top, left = round(row / grid.scale), round(column / grid.scale)
    bottom, right = round((row + 3) / grid.scale), round((column + 3) / grid.scale)
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    marked = grid.pool_mask(mask)
    assert marked.shape == (grid.rows, grid.columns)
    if not mask.any():  # the rest of the last token, beyond the edge
        assert not marked.any()
        return
    rows, columns = np.nonzero(marked)
    assert row - 1 <= rows.min()
    assert rows.max() <= row + 3
    assert column - 1 <= columns.min()
    assert columns.max() <= column + 3
    inner = mask[top : top + 2, left : left + 2].all() and bottom <= height and right <= width
    if inner and row + 1 < grid.rows and column + 1 < grid.columns:
        assert marked[row + 1, column + 1]


@given(st.data(), st.integers(8, 40), st.integers(8, 40))
def test_a_mask_is_pooled_as_by_a_loop_over_its_pixels(data, height, width):
    grid = Grid.of(height, width, tile=16, stride=4)
    mask = np.random.default_rng(data.draw(st.integers(0, 99))).random((height, width)) < data.draw(st.floats(0, 0.5))
    hits, area = np.zeros((2, grid.rows, grid.columns))
    for y, x in np.ndindex(height, width):
        token = min(int((y + 0.5) * grid.scale), grid.rows - 1), min(int((x + 0.5) * grid.scale), grid.columns - 1)
        area[token] += 1
        hits[token] += mask[y, x]
    covered = (hits > 0) & (hits >= 0.2 * area)
    best = (hits > 0) & (hits == hits.max())
    np.testing.assert_array_equal(grid.pool_mask(mask), covered if covered.any() else best)


def test_a_mask_of_exactly_one_token_marks_that_one():
    grid, mask = layout(300, 400), np.zeros((300, 400), dtype=bool)
    mask[16:24, 40:48] = True
    assert np.argwhere(grid.pool_mask(mask)).tolist() == [[2, 5]]


@pytest.mark.parametrize(("covered", "marked"), [(12, False), (13, True)])  # a fifth of 64 pixels is 12.8
def test_a_token_is_marked_from_a_fifth_of_its_area(covered, marked):
    grid, mask = layout(224, 224), np.zeros((224, 224), dtype=bool)
    mask[:8, :8] = True  # a second flaw, so that the rule for thin flaws does not apply
    mask[80 + np.arange(covered) // 8, 80 + np.arange(covered) % 8] = True
    assert bool(grid.pool_mask(mask)[10, 10]) is marked


def test_a_hairline_too_thin_for_any_token_marks_its_best_ones():
    grid, mask = layout(224, 224), np.zeros((224, 224), dtype=bool)
    mask[100, 100:104] = True
    mask[10, 10] = True
    assert np.argwhere(grid.pool_mask(mask)).tolist() == [[12, 12]]


def test_an_empty_mask_marks_nothing_and_a_full_one_everything():
    grid = layout(90, 130)
    assert not grid.pool_mask(np.zeros((90, 130), dtype=bool)).any()
    assert grid.pool_mask(np.ones((90, 130), dtype=bool)).all()
