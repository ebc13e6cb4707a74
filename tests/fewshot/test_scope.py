"""Micrographs unlike every reference are out of scope, whatever their score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_diff.fewshot.scope import SCOPE_BANK, Scope


def enrolled(make_bag, groups: list[str]) -> Scope:
    return Scope.fit([make_bag(seed).tokens for seed in range(len(groups))], groups)


def strangeness(scope: Scope, tokens: torch.Tensor) -> float:
    return float(scope.distances(tokens).mean())


def test_more_of_the_same_is_in_scope_and_another_material_is_not(make_bag):
    scope = enrolled(make_bag, list("aabbccdd"))
    assert all(strangeness(scope, make_bag(seed).tokens) < scope.limit for seed in range(50, 60))
    assert strangeness(scope, make_bag(60).tokens + 3) > scope.limit
    assert strangeness(scope, make_bag(61).tokens * 2) > scope.limit


def test_a_small_flaw_does_not_put_a_micrograph_out_of_scope(make_bag):
    scope = enrolled(make_bag, list("abcdef"))
    assert strangeness(scope, make_bag(50, flawed=4).tokens) < scope.limit


def test_references_are_compared_across_groups_not_within(make_bag):
    tokens = [make_bag(0).tokens, make_bag(0).tokens, make_bag(1).tokens + 1, make_bag(1).tokens + 1]
    apart, together = Scope.fit(tokens, list("aabb")), Scope.fit(tokens, list("aaaa"))
    assert apart.limit > together.limit


def test_one_group_still_gives_a_limit(make_bag):
    scope = enrolled(make_bag, ["a", "a"])
    assert 0 < scope.limit < float("inf")
    assert strangeness(scope, make_bag(50).tokens + 20) > scope.limit


def test_two_specimens_alike_by_chance_put_no_other_out_of_scope(make_bag):
    scope = Scope.fit([make_bag(0).tokens, make_bag(1).tokens], ["a", "b"])
    assert all(scope.limit > 1.3 * strangeness(scope, make_bag(seed).tokens) for seed in range(50, 60))


def test_the_bank_is_bounded_and_only_the_last_path_counts(make_bag):
    scope = Scope.fit([make_bag(seed, tokens=3000).tokens[:, 6:] for seed in range(3)], list("abc"))
    assert scope.bank.shape == (SCOPE_BANK, 10)
    tokens, moved = make_bag(50).tokens, make_bag(50).tokens
    moved[:, :6] += 100
    torch.testing.assert_close(scope.distances(moved), scope.distances(tokens))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(2, 40))
def test_strangeness_is_the_brute_force_distance_to_any_reference(seed, channels, count):
    generator = torch.Generator().manual_seed(seed)
    references = [torch.randn(count, channels, generator=generator) for _ in range(3)]
    asked = torch.randn(15, 4 + channels, generator=generator)
    brute = (asked[:, None, 4:] - torch.cat(references)[None]).norm(dim=2).amin(1)
    distances = Scope.fit(references, list("abc")).distances(asked)
    torch.testing.assert_close(distances, brute, rtol=1e-2, atol=1e-2)  # the bank is stored in float16


@pytest.mark.parametrize("groups", ["abcd", "aabb", "aaaa"])
def test_the_limit_lies_four_deviations_beyond_the_strangeness_of_references_to_other_groups(make_bag, groups):
    tokens = [(1 + 0.1 * seed) * make_bag(seed, tokens=SCOPE_BANK // 4).tokens for seed in range(4)]
    apart = "abcd" if groups == "aaaa" else groups
    own = [
        float((each[:, None] - torch.cat(rest)[None]).norm(dim=2).amin(1).mean())
        for each, group in zip(tokens, apart, strict=True)
        if (rest := [other for other, theirs in zip(tokens, apart, strict=True) if theirs != group])
    ]
    least = {"abcd": 0.05, "aabb": 0.1, "aaaa": 0.2}[groups] * np.mean(own)
    expected = np.mean(own) + 4 * max(np.std(own, ddof=1), least)
    assert Scope.fit(tokens, list(groups)).limit == pytest.approx(expected, rel=1e-3)
