"""Error rates on held-out micrographs: what is counted, and limits that hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from fusion_diff.inspection.validation import CONFIDENCE, Judged, Rate, counts, error_rates, figures, needed

DECISIONS = ("authentic", "not authentic", "inconclusive")
VERDICTS = st.builds(
    Judged,
    name=st.just("a.tif"),
    sha256=st.none(),
    label=st.sampled_from(["sound", "crack", "pore"]),
    specimen=st.sampled_from("ABCDE"),
    authentic=st.just(False),
    decision=st.sampled_from(DECISIONS),
    score=st.floats(0, 1),
    in_scope=st.booleans(),
).map(lambda each: Judged(**(vars(each) | {"authentic": each.label == "sound"})))


def judged(label, specimen="A", decision="inconclusive", score=0.5, *, in_scope=True):
    return Judged("a.tif", None, label, specimen, label == "sound", decision, score, in_scope)


@given(st.integers(1, 400), st.data())
def test_limits_are_the_quantiles_of_beta_distributions(of, data):
    errors = data.draw(st.integers(0, of))
    low, high = Rate(errors, of).limits
    tail = (1 - CONFIDENCE) / 2
    assert low == pytest.approx(beta.ppf(tail, errors, of - errors + 1) if errors else 0, abs=1e-9)
    assert high == pytest.approx(beta.ppf(1 - tail, errors + 1, of - errors) if errors < of else 1, abs=1e-9)
    assert low <= errors / of <= high


@given(st.integers(1, 30), st.floats(1e-6, 1 - 1e-6))
def test_limits_hold_as_often_as_they_say(of, rate):
    found = (Rate(errors, of).limits for errors in range(of + 1))
    held = [low - 1e-9 <= rate <= high + 1e-9 for low, high in found]
    assert binom.pmf(np.flatnonzero(held), of, rate).sum() >= CONFIDENCE - 1e-9


@given(st.floats(0.001, 0.9))
def test_so_many_without_an_error_show_a_rate_and_one_fewer_does_not(alpha):
    least = needed(alpha)
    assert Rate(0, least).limits[1] <= alpha + 1e-9
    assert least == 1 or Rate(0, least - 1).limits[1] > alpha


def test_the_table_of_the_documentation_is_that_of_the_limits():
    assert [needed(alpha) for alpha in (0.2, 0.1, 0.05, 0.01)] == [17, 36, 72, 368]


@given(st.lists(VERDICTS, max_size=20))
def test_each_is_counted_once_and_a_specimen_is_wrong_if_any_of_its_micrographs_is(others):
    every = [judged("sound"), *others]
    rates = error_rates(every)
    labels = {each.label for each in every}
    assert next(iter(rates)) == "sound rejected"
    for label in labels:
        row = counts(every, label)
        assert row["micrographs"] == sum(row[decision] for decision in DECISIONS)
    for name, wrong in (("sound rejected", "not authentic"), ("others accepted", "authentic")):
        if name not in rates:
            continue
        them = [each for each in every if each.authentic == (name == "sound rejected")]
        images, specimens = rates[name]
        assert (images.errors, images.of) == (sum(each.decision == wrong for each in them), len(them))
        groups = {letter: [each.decision for each in them if each.specimen == letter] for letter in "ABCDE"}
        assert specimens.of == sum(map(bool, groups.values()))
        assert specimens.errors == sum(wrong in decisions for decisions in groups.values())
    assert error_rates(every[::-1]) == rates


def test_errors_are_named_by_class_and_several_other_classes_by_themselves_too():
    assert list(error_rates([judged("sound")])) == ["sound rejected"]
    assert list(error_rates([judged("sound"), judged("crack")])) == ["sound rejected", "crack accepted"]
    three = error_rates([judged("sound"), judged("pore", decision="authentic"), judged("crack")])
    assert list(three) == ["sound rejected", "others accepted", "of these, crack", "of these, pore"]
    assert [images.errors for images, _ in three.values()] == [0, 1, 0, 1]


def test_figures_are_of_what_is_in_scope_and_of_two_sides():
    pair = [judged("sound", score=0.9), judged("crack", score=0.2)]
    assert figures(pair) == {"auroc": 1, "macro_f1": 1}
    assert figures([*pair, judged("crack", score=0.99, in_scope=False)]) == figures(pair)
    assert figures([*pair, judged("crack", score=0.99)])["auroc"] == 0.5
    assert figures(pair[:1]) == figures([]) == {}
