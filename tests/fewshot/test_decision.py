"""Probabilities, p-values and the decision."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from fusion_diff.fewshot.decision import (
    ROUNDING,
    Calibration,
    DecisionRule,
    decide,
    p_value,
    probability,
    shares_of,
    specimens_needed,
)

SCORES = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30).map(lambda s: np.array(s, dtype=float))


def p_of_singles(score: float, references: np.ndarray) -> float:
    """The p-value where every reference is a specimen of its own."""
    return p_value(score, references, np.ones(len(references)))


@given(SCORES, SCORES, st.floats(-60, 60), st.floats(0.01, 10))
def test_calibration_never_turns_the_evidence_upside_down(authentic, others, fused, more):
    calibration = Calibration.fit(authentic, others)
    low, high = probability(calibration.log_odds(fused + more)), probability(calibration.log_odds(fused))
    assert 0 < low <= high <= 1  # beyond log-odds of 37 it rounds to 1
    assert calibration.slope > 0


def test_separate_sides_come_out_on_their_own_side_of_one_half():
    calibration = Calibration.fit(np.array([-1.2, -1.0, -0.8]), np.array([0.9, 1.0, 1.1]))
    assert probability(calibration.log_odds(-1.0)) > 0.7
    assert probability(calibration.log_odds(1.0)) < 0.3
    assert probability(calibration.log_odds(0.0)) == pytest.approx(0.5, abs=0.05)


def test_sides_that_cannot_be_told_apart_stay_near_one_half():
    same = np.linspace(-1, 1, 9)
    calibration = Calibration.fit(same, same)
    assert all(0.4 < probability(calibration.log_odds(score)) < 0.6 for score in same)


def test_sides_the_wrong_way_round_are_not_believed():
    calibration = Calibration.fit(np.array([1.0, 2.0, 3.0]), np.array([-3.0, -2.0, -1.0]))
    assert calibration.slope == 0.05
    assert 0.45 < probability(calibration.log_odds(3.0)) <= probability(calibration.log_odds(-3.0)) < 0.55


def test_even_odds_lie_between_the_sides_where_one_is_rare_and_nothing_tells_them_apart():
    calibration = Calibration.fit(np.full(20, 2.0), np.array([-2.0, -2.0]))
    assert calibration.slope == 0.05
    assert calibration.log_odds(0.0) == pytest.approx(0.0)


def test_a_rare_side_is_not_outvoted():
    few, many = np.array([1.0, 1.2]), np.tile([-1.0, -1.2], 50)
    assert probability(Calibration.fit(many, few).log_odds(1.1)) < 0.4
    assert probability(Calibration.fit(-few, -many).log_odds(-1.1)) > 0.6


@pytest.mark.parametrize(("inside", "outside"), [(40, 2), (2, 40), (30, 3), (20, 5), (5, 5)])
def test_odds_are_even_where_both_sides_are_equally_likely_however_many_references_each_has(inside, outside):
    def scores(mean: float, count: int) -> np.ndarray:
        return stats.norm.ppf((np.arange(count) + 0.5) / count, loc=mean)

    calibration = Calibration.fit(scores(-1, inside), scores(1, outside))
    assert probability(calibration.log_odds(0.0)) == pytest.approx(0.5, abs=0.02)


def test_more_references_allow_more_confidence():
    def confidence(count: int) -> float:
        return probability(Calibration.fit(np.full(count, -1.0), np.full(count, 1.0)).log_odds(-1.0))

    assert confidence(2) < confidence(5) < confidence(50)


def test_authentic_references_alone_give_even_odds_at_one_deviation():
    calibration = Calibration.one_class()
    for fused in (-2.0, 0.0, 1.0, 1.5, 5.0):
        authentic, other = (math.exp(-((fused - mean) ** 2) / 2) for mean in (0.0, 2.0))
        assert probability(calibration.log_odds(fused)) == pytest.approx(authentic / (authentic + other))


@given(st.floats(allow_nan=False))
def test_a_probability_lies_strictly_between_0_and_1(log_odds):
    assert 0 < probability(log_odds) < 1 or math.isclose(probability(log_odds), 1)
    assert 0 <= probability(log_odds) <= 1


@given(st.floats(-30, 30))
def test_log_odds_and_their_opposite_add_up_to_one(log_odds):
    assert probability(log_odds) + probability(-log_odds) == pytest.approx(1)


@given(SCORES, st.floats(-60, 60))
def test_a_p_value_is_the_rank_among_the_references(references, score):
    p = p_of_singles(score, references)
    as_strange = sum(reference >= score for reference in references)
    assert p == pytest.approx((1 + as_strange) / (1 + len(references)))
    assert 1 / (1 + len(references)) <= p <= 1


@given(SCORES, st.floats(-60, 60), st.floats(0, 10))
def test_a_stranger_score_has_no_greater_p_value(references, score, more):
    assert p_of_singles(score + more, references) <= p_of_singles(score, references)


def test_p_values_of_exchangeable_scores_are_uniform_within_sampling_error():
    rng, n, trials = np.random.default_rng(0), 9, 4000
    drawn = rng.normal(size=(trials, n + 1))
    p = np.array([p_of_singles(row[0], row[1:]) for row in drawn])
    for alpha in (0.1, 0.2, 0.5, 0.9):
        deviation = math.sqrt(alpha * (1 - alpha) / trials)
        assert abs((p <= alpha + 1e-12).mean() - alpha) < 4 * deviation


GROUPS = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=30)


@given(GROUPS)
def test_every_specimen_has_one_voice(groups):
    shares = shares_of(groups)
    rule = DecisionRule(Calibration(1.0, 0.0), shares, shares[:0], shares, shares[:0], 0.0)
    assert rule.crossfitted_specimens == (len(set(groups)), 0)
    for group in set(groups):
        assert sum(share for share, its in zip(shares, groups, strict=True) if its == group) == pytest.approx(1)


@given(SCORES, st.floats(-60, 60), st.integers(1, 6))
def test_more_images_of_the_same_specimens_change_no_p_value(references, score, copies):
    groups = np.arange(len(references)).astype(str)
    again = p_value(score, np.tile(references, copies), shares_of(np.tile(groups, copies)))
    assert again == pytest.approx(p_of_singles(score, references))


def test_p_values_hold_for_new_specimens_where_references_are_images_of_a_few():
    """Images of one specimen are alike: if each counted as a specimen, p-values would be far too small."""
    rng, trials, specimens, images = np.random.default_rng(0), 2000, 4, 10
    shares = shares_of(np.repeat(np.arange(specimens), images).astype(str))
    rejected, by_image = [], []
    for _ in range(trials):
        means = rng.normal(size=specimens + 1)
        scores = (means[:-1, None] + 0.3 * rng.normal(size=(specimens, images))).ravel()
        new = means[-1] + 0.3 * rng.normal()
        rejected.append(p_value(new, scores, shares) <= 0.2 + 1e-9)
        by_image.append(p_of_singles(new, scores) <= 0.1)
    assert 0.1 < np.mean(rejected) < 0.2 + 4 * math.sqrt(0.2 * 0.8 / trials)
    assert np.mean(by_image) > 0.15


def test_a_sum_of_thirds_rejects_at_alpha_itself():
    shares = shares_of([f"{index % 9}" for index in range(27)])
    assert decide({"authentic": p_value(1.0, np.zeros(27), shares), "not authentic": 1.0}, 0.1, 9) == "not authentic"


def test_without_references_nothing_is_rejected():
    assert p_of_singles(100.0, np.zeros(0)) == 1


@pytest.mark.parametrize(
    ("authentic", "others", "decision"),
    [
        (0.05, 0.50, "not authentic"),
        (0.50, 0.05, "authentic"),
        (0.05, 0.05, "inconclusive"),
        (0.50, 0.50, "inconclusive"),
        (0.10, 0.50, "not authentic"),  # at alpha itself a side is rejected
        (0.50, 0.10, "authentic"),
        (0.10, 0.10, "inconclusive"),
    ],
)
def test_the_decision_names_the_only_side_that_is_not_rejected(authentic, others, decision):
    assert decide({"authentic": authentic, "not authentic": others}, 0.1, 2) == decision


@pytest.mark.parametrize(("p", "decision"), [(0.05, "not authentic"), (0.1, "not authentic"), (0.11, "authentic")])
def test_with_authentic_references_alone_there_is_one_side_to_reject(p, decision):
    assert decide({"authentic": p}, 0.1, 9) == decision


def test_authentic_references_alone_decide_nothing_where_they_are_too_few_to_reject_anything():
    assert decide({"authentic": 1 / 9}, 0.1, 8) == "inconclusive"
    assert decide({"authentic": 1.0}, 0.1, 8) == "inconclusive"
    assert decide({"authentic": 1.0}, 0.2, 8) == "authentic"


def test_nothing_follows_of_log_odds_that_are_no_number():
    with pytest.raises(ValueError, match="not a number"):
        probability(float("nan"))


@pytest.mark.parametrize(("alpha", "needed"), [(0.1, 9), (0.05, 19), (0.2, 4), (0.5, 1), (0.3, 3), (0.01, 99)])
def test_specimens_needed_for_known_error_rates(alpha, needed):
    assert specimens_needed(alpha) == needed


@given(st.floats(0.01, 0.99))
def test_as_many_references_as_needed_can_just_be_rejected(alpha):
    needed = specimens_needed(alpha)
    assume(abs(alpha * (needed + 1) - 1) > 1e-6 and abs(alpha * needed - 1) > 1e-6)
    assert p_of_singles(1.0, np.zeros(needed)) <= alpha
    if needed:
        assert p_of_singles(1.0, np.zeros(needed - 1)) > alpha


ROOT = Path(__file__).parents[2]
SPREAD = re.findall(
    r"^\| (0\.\d+) \| (\d+) \| (0\.\d+) \| (0\.\d+) \|$", (ROOT / "docs/references.md").read_text("utf-8"), re.M
)


@pytest.mark.parametrize(("alpha", "specimens", "mean", "twentieth"), SPREAD)
def test_the_documented_spread_of_error_rates_is_that_of_the_p_values(alpha, specimens, mean, twentieth):
    rng, errors = np.random.default_rng(0), []
    for _ in range(2000):
        scores = np.sort(rng.random(int(specimens)))  # new ones are uniform too, so lengths are probabilities
        edges = np.concatenate([[0.0], scores, [1.0]])
        middles = (edges[1:] + edges[:-1]) / 2
        rejected = [p_of_singles(middle, scores) <= float(alpha) + ROUNDING for middle in middles]
        errors.append(np.diff(edges)[rejected].sum())
    assert np.mean(errors) == pytest.approx(float(mean), abs=0.015)
    assert np.quantile(errors, 0.95) == pytest.approx(float(twentieth), abs=0.03)


def test_the_spread_of_error_rates_is_documented():
    assert len(SPREAD) == 7
