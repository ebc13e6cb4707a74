from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.inspection.wording import SYMBOLS, number, p_value_sentences, told_apart
from fusion_diff.verdict.compared import Compared


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (71, "71"),
        (-1234, "\u22121\u202f234"),
        (3.14159, "3.14"),
        (-0.5, "\u22120.500"),
        (1234567.8, "1\u202f234\u202f568"),
        (0.0123, "0.0123"),
        (9.996, "10.0"),
        (-0.99996, "\u22121.00"),
        (99.96, "100"),
        (1.5e-9, "1.50e\u221209"),
        (None, "\u2013"),
        (float("nan"), "\u2013"),
        (float("-inf"), "\u2212∞"),
    ],
)
def test_numbers_have_three_significant_digits(value, text):
    assert number(value) == text


@given(st.floats(1e-4, 1e12) | st.floats(-1e12, -1e-4))
def test_numbers_are_right_to_half_a_percent(value):
    text = number(value).replace("\u2212", "-").replace("\u202f", "")
    assert float(text) == pytest.approx(value, rel=0.005001)


@pytest.mark.parametrize(
    ("first", "second", "texts"),
    [
        (0.8, 0.9, ("0.800", "0.900")),
        (0.8996, 0.9, ("0.8996", "0.9000")),
        (0.5, 0.5, ("0.500", "0.500")),
        (float("nan"), 0.5, ("\u2013", "0.500")),
    ],
)
def test_two_numbers_have_the_digits_that_tell_them_apart(first, second, texts):
    assert told_apart(first, second) == texts


@given(st.floats(0, 1), st.floats(0, 1))
def test_two_texts_are_equal_just_where_the_numbers_are(first, second):
    one, other = told_apart(first, second)
    assert (one == other) == (first == second)


@pytest.mark.parametrize(
    ("p", "said"),
    [
        ({"authentic": 1 / 11}, "p(authentic) = 0.091: none of the 10 authentic references scored as low as this"),
        ({"authentic": 2 / 11}, "p(authentic) = 0.18: 1 of the 10 authentic references scored at least as low."),
        ({"authentic": 1.0}, "p(authentic) = 1.0: 10 of the 10 authentic references scored at least as low."),
        ({"not authentic": 1 / 6}, "none of the 5 other references scored as high as this micrograph"),
        ({"not authentic": 4 / 6}, "3 of the 5 other references scored at least as high."),
    ],
)
def test_where_references_are_counted_p_values_say_how_many_were_stranger(p, said):
    (sentence,) = p_value_sentences(
        p, Compared("sound", {"sound": 10, "crack": 5}, 15, {"authentic": 10, "not authentic": 5})
    )
    assert said in sentence
    assert ("cannot be smaller than 1/" in sentence) == ("none of" in sentence)


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (
            1 / 5,
            "none of the 10 authentic references, of 4 specimens, scored as low as this micrograph; with 4 specimens",
        ),
        (
            1.6 / 5,
            "15 % of the 10 authentic references, of 4 specimens, each specimen counting once, scored at least as low",
        ),
    ],
)
def test_where_references_share_specimens_p_values_say_what_share_of_these_was_stranger(p, said):
    compared = Compared("sound", {"sound": 10, "crack": 5}, 9, {"authentic": 4, "not authentic": 5})
    (sentence,) = p_value_sentences({"authentic": p}, compared)
    assert said in sentence
    (other,) = p_value_sentences({"not authentic": 4 / 6}, compared)
    assert "3 of the 5 other references scored" in other


def test_each_decision_has_a_sign_of_its_own():
    assert len(set(SYMBOLS.values())) == len(SYMBOLS) == 3
