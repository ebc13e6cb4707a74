"""The check at export."""

from __future__ import annotations

import dataclasses

import pytest

from fusion_diff.errors import ExportError
from fusion_diff.export.parity import Parity


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


def test_a_comparison_is_a_value():
    assert dataclasses.replace(Parity(1, 0.0, ()), difference=1.0).fault("fp32") is not None
