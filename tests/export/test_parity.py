"""The check at export."""

from __future__ import annotations

import numpy as np
import pytest

from fusion_diff.errors import ExportError
from fusion_diff.export.parity import Parity, supported_alpha
from fusion_diff.fewshot.decision import Calibration, DecisionRule, decide, shares_of
from fusion_diff.verdict.result import RecognisedSurface


@pytest.fixture
def verdicts(make_inspection):
    def make(*scores, decisions=None, in_scope=True):
        decisions = decisions or ["inconclusive"] * len(scores)
        return [
            make_inspection(score=score, decision=decision, in_scope=in_scope)
            for score, decision in zip(scores, decisions, strict=True)
        ]

    return make


def test_scores_that_agree_pass_and_the_greatest_difference_is_told(verdicts):
    parity = Parity.of(verdicts(0.9, 0.2), verdicts(0.9004, 0.2), ["a", "b"], [True, False])
    assert parity.difference == pytest.approx(0.0004)
    assert parity.furthest == "a"
    assert (parity.micrographs, parity.f1, parity.exported_f1) == (2, 1.0, 1.0)
    parity.check("fp32", "onnx")


def test_scores_that_differ_are_refused_in_fp32_and_not_in_int8(verdicts):
    parity = Parity.of(verdicts(0.9, 0.2), verdicts(0.9, 0.21), ["a", "b"], None)
    with pytest.raises(ExportError, match=r"in onnx at fp32, a score differs by 0\.01, more than the allowed 0\.001"):
        parity.check("fp32", "onnx")
    parity.check("int8", "onnx")


def test_a_verdict_turned_over_is_refused_and_one_left_open_is_not(verdicts):
    sure = verdicts(0.9, 0.2, decisions=["authentic", "not authentic"])
    turned = verdicts(0.9, 0.2, decisions=["not authentic", "not authentic"])
    left_open = verdicts(0.9, 0.2, decisions=["inconclusive", "not authentic"])
    with pytest.raises(ExportError, match="the verdict on a is reversed; export in fp32, or calibrate with more"):
        Parity.of(sure, turned, ["a", "b"], None).check("int8", "openvino")
    Parity.of(sure, left_open, ["a", "b"], None).check("int8", "openvino")


def test_a_micrograph_put_out_of_scope_is_refused(verdicts):
    with pytest.raises(ExportError, match="the two disagree on whether a is in scope"):
        Parity.of(verdicts(0.9), verdicts(0.9, in_scope=False), ["a"], None).check("int8", "onnx")


def test_more_than_a_point_of_f1_lost_is_refused_and_none_or_gained_is_not(verdicts):
    exact, worse = verdicts(0.9, 0.2, 0.6, 0.4), verdicts(0.9, 0.2, 0.49, 0.4)
    truth = [True, False, True, False]
    with pytest.raises(ExportError, match=r"macro F1 drops by 26\.7 points, more than the allowed 1"):
        Parity.of(exact, worse, list("abcd"), truth).check("int8", "onnx")
    Parity.of(worse, exact, list("abcd"), truth).check("int8", "onnx")


def rule(inside, outside):
    """The rule of so many authentic and other specimens, of scores below and above 0."""
    low, high = -np.arange(1.0, inside + 1), np.arange(1.0, outside + 1)
    return DecisionRule(
        Calibration(1, 0), low, high, shares_of(list(map(str, low))), shares_of(list(map(str, high))), 0
    )


@pytest.mark.parametrize(("inside", "outside"), [(1, 1), (4, 4), (4, 30), (8, 8), (9, 9), (30, 30), (3, 0), (12, 0)])
def test_decisions_are_compared_at_an_error_rate_at_which_every_one_can_be_made(inside, outside):
    judging = rule(inside, outside)
    alpha = supported_alpha(judging)
    decisions = [decide(judging.p_values(score), alpha, inside) for score in (-40.0, 40.0)]
    assert decisions == ["authentic", "not authentic"]
    assert alpha == max(0.1, 1 / (min(inside, outside or inside) + 1))


def test_where_nothing_was_cross_fitted_no_error_rate_is_enough():
    assert supported_alpha(rule(0, 0)) == 0.1


def test_it_is_told_on_how_many_micrographs_the_model_decides_and_whether_that_is_none(verdicts):
    some = verdicts(0.9, 0.2, 0.5, decisions=["authentic", "not authentic", "inconclusive"])
    parity = Parity.of(some, some, list("abc"), None)
    assert (parity.decided, parity.alpha, parity.doubts) == (2, 0.1, ())
    none = verdicts(0.9, 0.2)
    said = "scores were compared but no decisions, as the model decides on none of 2 micrographs at alpha 0.1; "
    given = "give the enrolled references (--references, or references in Python)"
    assert Parity.of(none, none, list("ab"), None).doubts == (said + given,)
    assert Parity.of(none, none, list("ab"), [True, False]).doubts == (f"{said}try both on other micrographs",)


def test_what_the_recognition_of_surfaces_is_worth_is_told_and_no_reason_to_refuse(verdicts, make_inspection):
    alone = verdicts(0.3, 0.2, decisions=["not authentic", "not authentic"])
    known = RecognisedSurface("a", "sound", 40)
    whole = [make_inspection(score=0.9, decision="authentic", recognised=known), alone[1]]
    parity = Parity.of(alone, alone, ["a\x1b", "b"], [True, False], whole)
    parity.check("fp32", "onnx")
    assert parity.difference == 0
    assert (parity.recognising.recognised, parity.recognising.furthest) == (1, "a\x1b")
    assert parity.doubts == (
        "without the recognition of surfaces, scores differ from the model's by up to 0.600 (on a\\x1b), and "
        "1 decision is reversed: it recognises 1 of 2 micrographs, each reference as itself; expect as much on new "
        "ones of these surfaces",
    )
    assert Parity.of(alone, alone, ["a", "b"], [True, False], alone).doubts == (), "nothing is recognised"
