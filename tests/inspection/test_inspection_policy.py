from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.errors import PolicyError
from fusion_diff.inspection.policy import FORMAT, NO_POLICY, Policy, exit_code, read_policy, warn_of_unknown_classes
from fusion_diff.inspection.run import Outcome
from fusion_diff.verdict.compared import Compared

WHOLE = f"""
format = "{FORMAT}"
authentic_classes = ["sound", "glazed"]
alpha = 0.05
minimum_score = 0.9
maximum_region_um = 50
out_of_scope = "fail"
inconclusive = "pass"
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "policy.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def rule(policy, inspection):
    return policy.rule(Outcome(Path("a.tif"), inspection))


def test_every_key_of_a_policy_is_read(write):
    assert read_policy(write(WHOLE)) == Policy(("sound", "glazed"), 0.05, 0.9, 50.0, "fail", "pass")


def test_a_byte_order_mark_is_no_part_of_a_policy(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(WHOLE, encoding="utf-8-sig")
    assert read_policy(path) == Policy(("sound", "glazed"), 0.05, 0.9, 50.0, "fail", "pass")
    path.write_text(f'format = "{FORMAT}"\nalpha = 2', encoding="utf-8-sig")
    with pytest.raises(PolicyError, match="line 2: alpha is 2"):
        read_policy(path)


def test_what_a_policy_does_not_say_is_left_to_the_model_and_what_that_leaves_open_fails(write, make_inspection):
    policy = read_policy(write(f'format = "{FORMAT}"'))
    assert policy == Policy() == Policy(out_of_scope="fail", inconclusive="fail")
    assert rule(policy, make_inspection(decision="authentic")).action == "pass"
    assert rule(policy, make_inspection(decision="inconclusive")).action == "fail"
    assert rule(NO_POLICY, make_inspection(decision="inconclusive")).action == "warn"
    assert rule(policy, make_inspection(decision="not authentic")).action == "fail"


@pytest.mark.parametrize("lenient", [Policy(("crack",), None, 0.0, None, "pass", "pass")])
def test_no_policy_passes_what_is_not_authentic_or_was_not_inspected(lenient, make_inspection):
    assert rule(lenient, make_inspection(decision="not authentic")).action == "fail"
    assert lenient.rule(Outcome(Path("a.tif"), error="gone")).action == "error"


def test_out_of_scope_and_inconclusive_have_actions_of_their_own(make_inspection):
    policy = Policy(out_of_scope="fail", inconclusive="pass")
    assert rule(policy, make_inspection(decision="inconclusive", in_scope=False)).action == "fail"
    assert rule(policy, make_inspection(decision="inconclusive")).action == "pass"
    assert rule(policy, make_inspection(decision="inconclusive")).reasons == ()


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (Policy(authentic_classes=("sound",)), "class is crack, but the policy allows only sound"),
        (Policy(minimum_score=0.99), "0.969, below the required 0.990"),
        (Policy(minimum_score=0.969), "0.9688, below the required 0.9690"),
        (Policy(maximum_region_um=11.9), "12.0 µm long, more than the allowed 11.9"),
    ],
)
def test_an_authentic_verdict_may_not_be_enough(policy, says, make_inspection):
    verdict = make_inspection(decision="authentic", score=0.96875)  # its region is 12 µm long
    assert rule(Policy(("crack",), None, 0.96875, 12.0), verdict).action == "pass"
    ruling = rule(policy, verdict)
    assert ruling.action == "fail"
    assert says in ruling.reasons[0]


def test_classes_that_a_model_does_not_have_are_warned_of():
    classes = ("sound", "crack", "sound")
    with pytest.warns(
        UserWarning, match=r"p.toml: the policy allows Sound \(did you mean 'sound'\?\), but the classes of the model"
    ) as told:
        warn_of_unknown_classes(Policy(("Sound",)), classes, "p.toml")
    assert "but the classes of the model are crack, sound; nothing will pass" in str(told[0].message)
    with pytest.warns(UserWarning, match="allows glaze, but") as told:
        warn_of_unknown_classes(Policy(("sound", "glaze")), classes, "p.toml")
    assert "nothing will pass" not in str(told[0].message)
    warn_of_unknown_classes(Policy(("sound",)), classes, "p.toml")
    warn_of_unknown_classes(Policy(), classes, "p.toml")


def test_a_size_that_is_unknown_or_a_score_that_is_no_number_passes_nothing(make_inspection):
    (region,) = make_inspection().regions
    unmeasured = replace(region, length_um=None)
    verdict = make_inspection(decision="authentic", regions=(region, unmeasured), pixel_size_um=None)
    ruling = rule(Policy(maximum_region_um=1e6), verdict)
    assert ruling.action == "fail"
    assert "--pixel-size" in ruling.reasons[0]
    assert rule(Policy(), make_inspection(decision="authentic", score=math.nan)).action == "fail"


def test_the_gravest_of_several_actions_counts_and_every_reason_is_told(make_inspection):
    ruling = rule(Policy(minimum_score=0.5, inconclusive="warn"), make_inspection(decision="inconclusive", score=0.1))
    assert ruling.action == "fail"
    assert len(ruling.reasons) == 2


@pytest.mark.parametrize("lengths", [[20.0], [2.0, 20.0], [20.0, 2.0]])
def test_the_longest_region_counts(lengths, make_inspection):
    (region,) = make_inspection().regions
    regions = tuple(replace(region, length_um=length) for length in lengths)
    verdict = make_inspection(decision="authentic", score=0.9, regions=regions)
    assert rule(Policy(maximum_region_um=20), verdict).action == "pass"
    assert "20.0 µm long" in rule(Policy(maximum_region_um=19), verdict).reasons[0]


def test_the_gravest_ruling_makes_the_exit_code(rulings):
    fail, warn, good, error = rulings
    assert [each.action for each in rulings] == ["fail", "warn", "pass", "error"]
    assert exit_code([good, warn]) == 0
    assert exit_code([good, fail, warn]) == 1
    assert exit_code([fail, error]) == 3
    assert exit_code([]) == 3


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("classes = ['sound']", "line 4: classes is not known; remove it, or use one of authentic_classes"),
        ("alpha = 1", "line 4: alpha is 1; write a number between 0 and 1, such as alpha = 0.1"),
        ("alpha = nan", "line 4: alpha is nan"),
        ("alpha = inf", "line 4: alpha is inf"),
        (f"alpha = {10**400}", "line 4: alpha is 1000000000"),
        (f"minimum_score = -{10**400}", "line 4: minimum_score is -1000000"),
        (f"alpha = 0x{'f' * 9000}", "line 4: alpha is a number of thousands of digits; write a number between"),
        (f"inconclusive = 0x{'f' * 9000}", "line 4: inconclusive is a number of thousands of digits; write"),
        ("minimum_score = '0.9'", "line 4: minimum_score is '0.9'; write a number from 0 to 1"),
        ("maximum_region_um = true", "line 4: maximum_region_um is True"),
        ("minimum_score = false", "line 4: minimum_score is False"),
        ("authentic_classes = []", "line 4: authentic_classes is []"),
        ("inconclusive = 'ignore'", 'line 4: inconclusive is \'ignore\'; write "pass", "warn" or "fail"'),
        ("authentic_classes = 'sound'", "line 4: authentic_classes is 'sound'; write a list"),
        ("authentic_classes = [\n'sound',\n7]", "line 6: authentic_classes is a list that holds 7"),
        ("[out_of_scope]\naction = 'fail'", "line 4: out_of_scope is {'action': 'fail'}"),
        ("alpha = 0.1\nalpha = 0.2", "line 5"),
        ("alpha == 0.1", "line 4"),
    ],
)
def test_what_a_policy_cannot_mean_is_refused_with_the_line_and_the_cure(line, says, write):
    with pytest.raises(PolicyError) as caught:
        read_policy(write(f'# ours\nformat = "{FORMAT}"\n\n{line}\n# end\n'))
    assert "policy.toml" in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"alpha": 7}, "alpha is 7; write a number between 0 and 1, such as alpha = 0.1"),
        ({"minimum_score": 9}, "minimum_score is 9; write a number from 0 to 1"),
        ({"maximum_region_um": math.nan}, "maximum_region_um is nan"),
        ({"out_of_scope": "ignore"}, 'out_of_scope is \'ignore\'; write "pass", "warn" or "fail"'),
        ({"authentic_classes": "sound"}, "authentic_classes is 'sound'; write a list"),
    ],
)
def test_what_a_policy_in_python_cannot_mean_is_refused_too(value, says):
    with pytest.raises(PolicyError, match=f"^{re.escape(says)}"):
        Policy(**value)


def test_a_policy_in_python_takes_classes_as_any_list():
    assert Policy(authentic_classes=["sound"]) == Policy(authentic_classes=("sound",))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alpha = 0.1", 'write format = "fusion-diff/policy/1"'),
        ("\nformat = 'fusion-diff/policy/2'", "line 2: the format of the policy is missing or not supported"),
        ("#" * 20_000, "too many for a policy"),
        ("#\n" * 500, "too many for a policy"),
        ("a = " + "[" * 5000, "not TOML"),
    ],
)
def test_what_is_no_policy_is_refused(text, says, write):
    with pytest.raises(PolicyError, match=says):
        read_policy(write(text))


def test_a_policy_that_is_not_there_is_named():
    with pytest.raises(PolicyError, match=r"nowhere\.toml: cannot be read \(No such file"):
        read_policy("nowhere.toml")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_policy_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("policy") / "p.toml"
    path.write_bytes(f'format = "{FORMAT}"\n'.encode() + content)
    said = ""
    try:
        read_policy(path).explain()
    except PolicyError as error:
        said = str(error)
    assert said.isprintable()


def test_a_policy_is_explained_by_what_it_does(write):
    said = " ".join(read_policy(write(WHOLE)).explain())
    for part in ("alpha of 0.05", "other than sound or glazed.", "below 0.9 fails", "50 µm fails", "out of scope"):
        assert part in said
    assert "for another reason passes." in said
    assert " ".join(NO_POLICY.explain()).count("passes with a warning") == 2


def test_another_magnification_is_not_called_another_subject(make_inspection):
    sides = {"authentic": 9, "not authentic": 0}
    compared = Compared(
        "sound", {"sound": 9}, 9, sides, with_pixel_size=9, smallest_pixel_um=0.01, largest_pixel_um=0.01
    )
    beyond = make_inspection(decision="inconclusive", in_scope=False, compared_with=compared)
    assert "of another magnification than the references" in rule(Policy(), beyond).reasons[0]
    assert "unlike every reference" in rule(Policy(), replace(beyond, pixel_size_um=0.01)).reasons[0]
