"""Correspondence evidence: when it is used, and what a recognised surface adds to the verdict."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from fusion_diff.fewshot.correspondence import CORRESPONDENCE, ENOUGH, LOG_ODDS, Correspondence
from fusion_diff.fewshot.crossfit import HANDFUL
from fusion_diff.fewshot.keypoints import Keypoints
from fusion_diff.fewshot.verifier import Verifier
from fusion_diff.micrograph.tiles import Grid
from fusion_diff.perception import Part
from fusion_diff.verdict.model_evidence import ModelEvidence


def learn(views, authentic, groups=None):
    return Correspondence.fit(views, np.asarray(authentic), groups or [str(i) for i in range(len(views))])


def test_a_view_of_an_authentic_object_speaks_for_it_and_of_another_against_it(view):
    evidence, _ = learn([view(0), view(0, 400), view(1), view(1, 400)], [True, True, False, False])
    mine, other = evidence.match(view(0, 430)), evidence.match(view(1, 30))
    assert (mine.reference, mine.log_odds) == (1, -LOG_ODDS)
    assert (other.reference, other.log_odds) == (2, LOG_ODDS)
    assert min(mine.points, other.points) >= ENOUGH


def test_a_surface_that_is_not_enrolled_says_nothing(view):
    evidence, _ = learn([view(0), view(1)], [True, False])
    assert evidence.match(view(2)) is None
    assert evidence.match(view(0, 600)) is None, "another side of the same object"


def test_a_small_part_does_not_vouch_for_a_large_micrograph_but_is_recognised_within_a_large_reference():
    noise = np.random.default_rng(0).normal(size=(640, 640)).astype(np.float32)
    blotches = sum(cv2.GaussianBlur(noise, (0, 0), sigma) * sigma for sigma in (2, 4, 8))
    picture = cv2.normalize(blotches, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    whole, part = Keypoints.find(picture), Keypoints.find(picture[300:500, 300:500])
    assert whole.shared(part).points >= ENOUGH
    enrolled_part, _ = learn([part], [True])
    assert enrolled_part.match(whole) is None
    enrolled_whole, given = learn([whole, part], [True, True])
    assert enrolled_whole.match(part).log_odds == -LOG_ODDS
    assert given.tolist() == [0.0, -LOG_ODDS], "the whole is not vouched for by its part"


def test_references_of_two_classes_that_show_one_place_silence_the_evidence(view):
    evidence, given = learn([view(0), view(0, 60), view(1)], [True, False, False])
    assert evidence is None
    assert not given.any()


@pytest.mark.parametrize(("authentic", "used"), [(4, False), (5, True)])
def test_one_class_must_show_a_place_twice_as_often_as_two_classes(view, authentic, used):
    """Among n views of a place, n (n - 1) / 2 pairs are alike and n are unlike, with one view of the other class."""
    views = [view(0, 20 * index) for index in range(authentic + 1)]
    assert (learn(views, [True] * authentic + [False])[0] is not None) == used


def test_a_wrong_label_among_many_is_outvoted(view):
    views = [view(bowl, left) for bowl in (0, 1) for left in (0, 40, 80, 120, 160)]
    sides = [True] * 5 + [False] * 4 + [True]
    evidence, _ = learn(views, sides)
    assert evidence.match(view(0, 20)).log_odds == -LOG_ODDS
    match = evidence.match(view(1, 20))
    assert match.log_odds == LOG_ODDS
    assert not evidence.authentic[match.reference]


def test_a_place_that_both_sides_show_as_well_says_nothing(view):
    evidence = Correspondence((view(0), view(0)), np.asarray([True, False]))
    assert evidence.match(view(0, 30)) is None


def test_many_references_of_which_no_two_show_one_place_silence_it(view):
    views = [view(bowl) for bowl in range(HANDFUL + 1)]
    sides = [True] * 10 + [False] * 11
    assert learn(views, sides)[0] is None
    assert learn(views[1:], sides[1:])[0] is not None, "of few that cannot be asked"
    assert learn([*views[:-1], view(HANDFUL - 1, 60)], sides)[0] is not None


def test_references_are_judged_by_those_of_other_groups_alone(view):
    views, sides = [view(0), view(0, 60), view(1), view(1, 60)], [True, True, False, False]
    assert learn(views, sides)[1].tolist() == [-LOG_ODDS, -LOG_ODDS, LOG_ODDS, LOG_ODDS]
    assert not learn(views, sides, ["bowl 0", "bowl 0", "bowl 1", "bowl 1"])[1].any()


@pytest.fixture
def verifier(make_bag, view) -> Verifier:
    views = [view(bowl, left) for bowl in (0, 1) for left in (0, 60, 400, 460)]
    bags = [make_bag(seed, keypoints=each) for seed, each in enumerate(views)]
    return Verifier.fit(bags, ["true"] * 4 + ["false"] * 4, "true", [str(i) for i in range(8)])


def test_a_recognised_surface_moves_the_verdict_by_what_it_is_worth(verifier, make_bag, view):
    bag = make_bag(50)
    part = Part((0, 10), (0, 20), bag.tokens, bag.residual, torch.zeros(1, 4))
    plain = ModelEvidence.of(Grid(10, 20, 1 / 8, 28, 8), [part], verifier)
    recognised = plain.recognising(verifier, view(1, 430))
    assert CORRESPONDENCE not in plain.contributions
    assert recognised.contributions == plain.contributions | {CORRESPONDENCE: LOG_ODDS}
    assert recognised.log_odds - plain.log_odds == pytest.approx(LOG_ODDS)
    assert recognised.log_odds == verifier.calibration.log_odds(recognised.fused)
    assert verifier.p_values(recognised.fused)["authentic"] < verifier.p_values(plain.fused)["authentic"] + 1e-9
    assert plain.recognising(verifier, view(2)) is plain


def test_cross_fitted_scores_of_references_include_what_their_surfaces_say(verifier):
    assert verifier.inside.max() < verifier.outside.min(), "tokens alike, told apart by their surfaces"


def test_without_keypoints_there_is_no_such_evidence(make_bag, view):
    bags = [make_bag(seed) for seed in range(4)]
    verifier = Verifier.fit(bags, ["true"] * 2 + ["false"] * 2, "true", list("abcd"))
    assert verifier.correspondence is None
    assert verifier.recognise(view(0)) is None


def test_scores_without_recognising_are_those_of_references_without_keypoints(make_bag, view):
    views = [view(bowl, left) for left in (460, 0, 400, 60) for bowl in (1, 0)]
    bags = [make_bag(seed, keypoints=each) for seed, each in enumerate(views)]
    labels, groups = ["false", "true"] * 4, [str(index) for index in range(8)]
    whole = Verifier.fit(bags, labels, "true", groups)
    plain = Verifier.fit([replace(bag, keypoints=None) for bag in bags], labels, "true", groups)
    assert whole.correspondence is not None
    assert np.abs(whole.inside - plain.inside).max() > 0.1, "some were recognised"
    without = whole.unrecognising(bags, labels, groups)
    assert without.correspondence is None
    np.testing.assert_allclose(without.inside, plain.inside, atol=1e-9)
    np.testing.assert_allclose(without.outside, plain.outside, atol=1e-9)
