"""A micrograph as tokens: the result does not depend on tiles and batches."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad

from fusion_diff import perception
from fusion_diff.encoder.dual_path import STRIDE
from fusion_diff.fewshot.bags import Bag
from fusion_diff.micrograph import Micrograph
from fusion_diff.micrograph.tiles import MARGIN
from fusion_diff.perception import MARKED_TOKENS, MAX_TOKENS, _Sample, encode, perceive, thin


def noise(height: int, width: int, *, seed: int = 0) -> Micrograph:
    return Micrograph.from_array(np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8))


def whole_map(micrograph, encoder, **options) -> torch.Tensor:
    grid, parts = perceive(micrograph, encoder, **options)
    joined = torch.full((grid.rows, grid.columns, sum(encoder.paths)), torch.nan)
    for part in parts:
        shape = part.rows[1] - part.rows[0], part.columns[1] - part.columns[0]
        joined[slice(*part.rows), slice(*part.columns)] = part.tokens.view(*shape, -1)
    return joined


@pytest.mark.parametrize("size", [(32, 32), (160, 160), (224, 224), (240, 500), (300, 100)])
def test_every_token_of_the_grid_is_perceived(model, size):
    joined = whole_map(noise(*size), model.encoder)
    assert bool(torch.isfinite(joined).all())
    assert joined.shape[2] == sum(model.encoder.paths)


@torch.no_grad()
def test_one_tile_gives_the_encoder_s_own_tokens(model):
    micrograph = noise(224, 224)
    low, high = micrograph.contrast_range
    pixels = torch.from_numpy(np.clip((micrograph.pixels - low) / (high - low), 0, 1)).float().expand(1, 3, 224, 224)
    expected = model.encoder(pixels)
    seen = whole_map(micrograph, model.encoder)
    inside = slice(MARGIN, -MARGIN)
    torch.testing.assert_close(
        seen[inside, inside], expected.tokens[0].permute(1, 2, 0)[inside, inside], rtol=1e-3, atol=1e-3
    )
    _, condition = encode(micrograph, model.encoder)
    torch.testing.assert_close(condition, expected.condition[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("batch", [1, 3])
def test_tokens_do_not_depend_on_how_many_tiles_are_encoded_at_once(model, monkeypatch, batch):
    micrograph = noise(420, 420)
    as_shipped = whole_map(micrograph, model.encoder)
    monkeypatch.setattr(perception, "BATCH", batch)
    torch.testing.assert_close(whole_map(micrograph, model.encoder), as_shipped, rtol=1e-3, atol=1e-3)


def test_tokens_at_the_edge_repeat_what_lies_just_inside(model):
    seen = whole_map(noise(224, 224), model.encoder)
    inside = seen[MARGIN:-MARGIN, MARGIN:-MARGIN]
    for edge in range(MARGIN):
        assert torch.equal(seen[edge, MARGIN:-MARGIN], inside[0])
        assert torch.equal(seen[-1 - edge, MARGIN:-MARGIN], inside[-1])
        assert torch.equal(seen[MARGIN:-MARGIN, edge], inside[:, 0])
        assert torch.equal(seen[MARGIN:-MARGIN, -1 - edge], inside[:, -1])


@torch.no_grad()
def test_each_tile_of_a_large_micrograph_is_encoded_as_it_would_be_alone(model):
    micrograph = noise(500, 600)
    grid, parts = perceive(micrograph, model.encoder)
    for tile, part in zip(grid.tiles(), parts, strict=True):
        alone = model.encoder(torch.from_numpy(grid.read(micrograph, tile))[None]).tokens[0]
        alone = pad(alone[:, MARGIN:-MARGIN, MARGIN:-MARGIN], (MARGIN,) * 4, mode="replicate")
        kept = alone[
            :,
            tile.rows[0] - tile.top : tile.rows[1] - tile.top,
            tile.columns[0] - tile.left : tile.columns[1] - tile.left,
        ]
        torch.testing.assert_close(part.tokens, kept.flatten(1).T, rtol=1e-3, atol=1e-3)
        assert (part.rows, part.columns) == (tile.rows, tile.columns)


def test_without_the_diffusion_path_there_are_no_residuals(model):
    bag, _ = encode(noise(224, 224), model.encoder)
    assert bag.residual.shape == (28 * 28, 0)


def test_with_the_diffusion_path_every_token_has_residuals(model):
    _, condition = encode(noise(224, 240), model.encoder)
    residual = partial(model.reconstruction.residual, condition=condition)
    bag, _ = encode(noise(224, 240), model.encoder, residual=residual)
    assert bag.residual.shape == (28 * 30, 2)
    assert float(bag.residual.min()) >= 0


def test_tokens_of_a_bag_are_rounded_as_they_are_stored(model):
    bag, _ = encode(noise(224, 224), model.encoder)
    assert torch.equal(bag.tokens, bag.tokens.half().float())


def test_marks_keep_to_their_tokens_across_tiles(model):
    """The marked tokens are those whose pixels changed."""
    pixels = np.random.default_rng(0).integers(60, 200, (400, 400), dtype=np.uint8)
    pixels[0, :8], pixels[1, :8] = 0, 255  # fixes the contrast range
    mark = np.zeros((400, 400), dtype=bool)
    mark[200:232, 208:240] = True
    bag, _ = encode(Micrograph.from_array(pixels), model.encoder, mark=mark)
    assert int(bag.mark.sum()) == (32 // STRIDE) ** 2
    changed, _ = encode(Micrograph.from_array(np.where(mark, 200, pixels)), model.encoder, mark=mark)
    change = (changed.tokens - bag.tokens).abs().mean(1)
    assert float(change[bag.mark].mean()) > 3 * float(change[~bag.mark].mean())


def test_a_twin_is_the_token_of_the_mirror_image_and_stands_beside_its_own(model):
    micrograph = noise(224, 224)
    mark = np.zeros((224, 224), dtype=bool)
    mark[40:60, :30] = True
    alone, _ = encode(micrograph, model.encoder, mark=mark)
    both, _ = encode(micrograph, model.encoder, mark=mark, twins=True)
    flipped = Micrograph.from_array(np.ascontiguousarray(np.asarray(micrograph.pixels)[:, ::-1]))
    other, _ = encode(flipped, model.encoder)
    assert torch.equal(both.tokens[::2], alone.tokens)
    twins = both.tokens[1::2].view(28, 28, -1).flip(1).flatten(0, 1)
    torch.testing.assert_close(twins, other.tokens, rtol=1e-2, atol=1e-2)
    assert torch.equal(both.mark[::2], alone.mark)
    assert torch.equal(both.mark[1::2], alone.mark)


def test_a_very_large_reference_is_thinned_and_keeps_some_of_its_marked_tokens(model):
    micrograph = noise(760, 800)
    mark = np.zeros((760, 800), dtype=bool)
    mark[400:480, 160:240] = True
    whole, _ = encode(micrograph, model.encoder)
    bag, _ = encode(micrograph, model.encoder, mark=mark)
    assert 95 * 100 > MAX_TOKENS == len(bag.tokens) == len(bag.mark) == len(bag.residual)
    assert MARKED_TOKENS <= int(bag.mark.sum()) < 100
    assert torch.equal(whole.tokens, encode(micrograph, model.encoder)[0].tokens), "the same sample every time"


@settings(deadline=None)
@given(st.lists(st.integers(1, 120), min_size=1, max_size=8), st.integers(1, 300), st.none() | st.integers(0, 7))
def test_tokens_that_come_in_parts_are_thinned_as_those_that_come_at_once(parts, limit, marked):
    index = torch.arange(float(sum(parts)))
    whole = Bag(index[:, None], index[:, None], None if marked is None else index % 7 < marked)
    sample, first = _Sample(len(index), limit), 0
    for count in parts:
        mark = None if whole.mark is None else whole.mark[first : first + count]
        sample.add(Bag(whole.tokens[first : first + count], whole.residual[first : first + count], mark))
        first += count
        assert len(sample.bag.tokens) <= 2 * limit
    drawn, meant = sample.drawn(), thin(whole, limit)
    assert torch.equal(drawn.tokens, meant.tokens)
    assert marked is None or torch.equal(drawn.mark, meant.mark)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.none() | st.integers(0, 300))
def test_thinning_keeps_some_marked_tokens_and_tokens_with_what_belongs_to_them(count, limit, marked):
    index = torch.arange(float(count))
    mark = None if marked is None else torch.arange(count) % 7 < marked % 8
    bag = Bag(index[:, None], -index[:, None].expand(count, 2), mark)
    thinned = thin(bag, limit)
    kept = thinned.tokens[:, 0].long()
    assert len(kept) == min(count, limit)
    assert kept.tolist() == sorted(set(kept.tolist())), "in their order, none twice"
    assert torch.equal(thinned.residual, bag.residual[kept])
    assert torch.equal(thin(bag, limit).tokens, thinned.tokens), "the same sample every time"
    assert (thinned.mark is None) == (mark is None)
    if mark is not None:
        assert torch.equal(thinned.mark, mark[kept])
        assert int(thinned.mark.sum()) >= min(limit, MARKED_TOKENS, int(mark.sum()))


def test_a_flaw_has_the_share_of_a_thinned_reference_that_it_has_of_the_whole():
    """New micrographs are not thinned, so the share of flawed tokens must stay the same."""
    tokens = torch.arange(60_000.0)[:, None]
    mark = tokens[:, 0] < 600
    thinned = thin(Bag(tokens, torch.zeros(60_000, 0), mark), 8192)
    assert float(thinned.mark.float().mean()) == pytest.approx(0.01, abs=0.003)


def test_thinning_draws_evenly():
    kept = thin(Bag(torch.arange(10_000.0)[:, None], torch.zeros(10_000, 0)), 2000).tokens
    assert all(300 < int(((kept >= first) & (kept < first + 2000)).sum()) < 500 for first in range(0, 10_000, 2000))
