from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.fewshot.bags import CLIP, TOP_SHARE, Scale, sample_tokens, top_count


def test_authentic_tokens_come_out_standardised(make_bag):
    tokens = 5 + 3 * make_bag(0, tokens=5000).tokens
    scaled = Scale.of([tokens[:2500], tokens[2500:]])(tokens)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(16), rtol=0, atol=0.01)
    torch.testing.assert_close(scaled.std(0), torch.ones(16), rtol=0, atol=0.02)


def test_every_reference_counts_alike_whatever_its_size():
    small, large = torch.tensor([[0.0], [2.0]]), torch.full((1000, 1), 11.0)
    scale = Scale.of([small, large])
    assert float(scale.mean) == pytest.approx(6)
    assert float(scale.std) == pytest.approx(((0 + 4) / 4 + 121 / 2 - 36) ** 0.5, rel=1e-4)


def test_a_channel_far_from_zero_is_standardised_as_one_about_zero(make_bag):
    about_zero = make_bag(0, tokens=5000).tokens
    far = about_zero + 10_000
    scale = Scale.of([far[:2500], far[2500:]])
    torch.testing.assert_close(scale.std, about_zero.std(0, correction=0), rtol=1e-3, atol=0)


def test_a_channel_far_off_is_clipped_and_one_without_spread_stays_finite():
    scale = Scale.of([torch.zeros(10, 2)])
    assert scale(torch.tensor([[1e6, -1e6]])).tolist() == [[CLIP, -CLIP]]


@given(st.integers(1, 10_000))
def test_the_top_share_is_never_empty_nor_all(count):
    assert 1 <= top_count(count) <= max(1, count // 2)


@given(st.integers(1, 10_000), st.floats(0.001, 1))
def test_the_top_share_is_the_share_to_the_nearest_token(count, share):
    assert abs(top_count(count, share) - share * count) <= 0.5 or top_count(count, share) == 1
    assert top_count(count) == top_count(count, TOP_SHARE)


def test_a_bag_of_one_path_has_that_path_s_channels(make_bag):
    bag = make_bag(0, flawed=5, marked=True)
    parts = [bag.path((4, 5, 7), index) for index in range(3)]
    assert torch.equal(torch.cat([part.tokens for part in parts], dim=1), bag.tokens)
    assert all(part.mark is bag.mark for part in parts)
    assert [part.tokens.shape[1] for part in parts] == [4, 5, 7]


def test_sampled_tokens_are_distinct_and_the_same_every_time():
    parts = [torch.arange(60.0)[:, None], torch.arange(60.0, 100.0)[:, None]]
    once = sample_tokens(parts, 30)
    assert len(once) == len(set(once.flatten().tolist())) == 30
    assert torch.equal(once, sample_tokens(parts, 30))
    assert not torch.equal(once, sample_tokens(parts, 30, seed=1))
    assert torch.equal(sample_tokens(parts, 100), torch.cat(parts))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 60), st.integers(0, 3))
def test_a_sample_is_what_indexing_all_tokens_at_once_gives(counts, limit, seed):
    numbers = torch.arange(2.0 * sum(counts)).reshape(-1, 2)
    chosen = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))[:limit]
    expected = numbers[chosen] if len(numbers) > limit else numbers
    assert torch.equal(sample_tokens(numbers.split(counts), limit, seed), expected)
