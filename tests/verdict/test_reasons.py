"""Reasons for verdicts, the most important first."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from fusion_diff.fewshot.correspondence import CORRESPONDENCE
from fusion_diff.fewshot.readings import READINGS
from fusion_diff.verdict.compared import Compared
from fusion_diff.verdict.reasons import IN_FAVOUR, MEANING, OUT_OF_SCOPE, changed, explain, undecidable
from fusion_diff.verdict.regions import MAX_REGIONS
from fusion_diff.verdict.result import NearestReference, RecognisedSurface, Region

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusion_diff.verdict.result import Inspection

REGION = Region(4, 20, 24, 30, 16.0, 32.0, 400, 3.0, 2.5)
IN_UM = replace(REGION, area_um2=100.04, centroid_x_um=16.0, centroid_y_um=8.25)


@pytest.fixture
def reasons(make_inspection: Callable[..., Inspection]) -> Callable[..., tuple[str, ...]]:
    """Returns the reasons for a verdict made by hand, with any field changed."""

    def explained(*, references: tuple[int, int] = (9, 9), **changes: Any) -> tuple[str, ...]:
        inside, outside = references
        verdict = {
            "score": 0.2,
            "p_values": {"authentic": 0.1, "not authentic": 0.7},
            "contributions": {"multiple-instance": 0.5, "pooled": 1.5},
            "regions": (),
            "nearest": (),
            "compared_with": Compared(
                "sound",
                {"sound": inside, "crack": outside},
                inside + outside,
                {"authentic": inside, "not authentic": outside},
            ),
        }
        return explain(make_inspection(**verdict | changes))

    return explained


def test_the_kind_that_speaks_most_for_the_verdict_is_named_with_its_part(reasons):
    against = reasons()[0]
    assert against.startswith("The strongest evidence against authenticity is its texture as a whole (pooled, +1.50")
    authentic = reasons(score=0.9, decision="authentic", contributions={"multiple-instance": -2.0, "pooled": 0.3})[0]
    assert authentic.startswith("The strongest evidence for authenticity is that hardly any part looks like")
    assert "multiple-instance, \u22122.00" in authentic


@pytest.mark.parametrize(("score", "side"), [(0.2, "against"), (0.8, "for")])
def test_of_an_open_verdict_the_kind_that_speaks_most_for_its_score_is_named(reasons, score, side):
    first = reasons(decision="inconclusive", score=score, contributions={"outliers": 1.0, "pooled": -1.0})[0]
    assert first.startswith(f"The strongest evidence {side} authenticity is ")


@pytest.mark.parametrize(
    ("decision", "score", "p", "side", "said"),
    [
        (
            "not authentic",
            0.75,
            {"authentic": 0.0625},
            "against",
            "authentic specimens, its own included, that score at least as low is 0.062, not more than alpha 0.1.",
        ),
        (
            "authentic",
            0.25,
            {"authentic": 0.2, "not authentic": 0.05},
            "for",
            "share of other specimens, its own included, that score at least as high is 0.05, not more than alpha 0.1.",
        ),
        (
            "authentic",
            0.25,
            {"authentic": 0.2},
            "for",
            "share of authentic specimens, its own included, that score at least as low is 0.2, more than alpha 0.1.",
        ),
    ],
)
def test_a_decision_that_the_score_does_not_suggest_is_explained(reasons, decision, score, p, side, said):
    """The reasons speak for the decision, also where the score lies on the other side of even odds."""
    parts = {"novelty": 5.0, "suspicion": -4.0}
    strongest, why, *_ = reasons(decision=decision, score=score, p_values=p, contributions=parts)
    assert strongest.startswith(f"The strongest evidence {side} authenticity is ")
    assert why.startswith(f"{decision.capitalize()}, although its score is {score}")
    assert why.endswith(said)


def test_a_kind_that_somebody_added_is_named(reasons):
    for value, side, shown in ((1.5, "against", "+1.50"), (-1.5, "for", "\u22121.50")):
        (first, *_) = reasons(score=0.5 - value / 4, decision="inconclusive", contributions={"distance": value})
        meant = f"{side} authenticity is of an unknown kind (distance, {shown} log-odds)."
        assert first == f"The strongest evidence {meant}"


def test_evidence_that_speaks_the_other_way_is_not_given_as_the_reason(reasons):
    assert reasons(score=0.2, contributions={"pooled": -0.5}) == ("No region departs from the authentic references.",)


def test_every_kind_of_evidence_has_a_meaning():
    parts = {kind for rule in READINGS.values() if len(rule.kinds) > 1 for kind in rule.kinds}
    assert set(MEANING) == set(IN_FAVOUR) == {*READINGS, CORRESPONDENCE} | parts


def test_out_of_scope_comes_first_and_is_the_only_reason_for_an_open_decision(reasons):
    inside, outside = (reasons(decision="inconclusive", in_scope=each) for each in (True, False))
    assert outside[0] == OUT_OF_SCOPE
    assert OUT_OF_SCOPE not in inside
    assert inside[-1].startswith("Inconclusive:")
    assert not any(line.startswith("Inconclusive:") for line in outside)
    assert outside[1:] == inside[:-1], "the rest is told all the same"


@pytest.mark.parametrize(
    ("references", "p", "alpha", "said"),
    [
        ((1, 1), (), 0.1, "there are too few references to calibrate the score"),
        ((5, 9), (0.5, 0.5), 0.1, "alpha 0.1 needs 9 references on each side, but there are 5 authentic; enrol"),
        ((5, 1), (0.5,), 0.1, "alpha 0.1 needs 9 references, but there are 5 authentic; enrol"),
        ((5, 3), (0.5, 0.5), 0.1, "but there are 5 authentic and 3 not authentic; enrol more specimens, or choose"),
        ((9, 9), (0.5, 0.5), 0.1, "it fits both"),
        ((9, 9), (0.1, 0.1), 0.1, "it fits neither"),
        ((9, 9), (0.10000000000000003, 0.10000000000000003), 0.1, "it fits neither"),  # a sum of thirds, rounded
    ],
)
def test_an_open_decision_says_why_it_is_open(reasons, references, p, alpha, said):
    p_values = dict(zip(("authentic", "not authentic"), p, strict=False))
    reason = reasons(decision="inconclusive", references=references, p_values=p_values, alpha=alpha)[-1]
    assert reason.startswith("Inconclusive: ")
    assert said in reason


@pytest.mark.parametrize(
    ("specimens", "said"),
    [
        (
            (4, 9),
            "alpha 0.1 needs 9 specimens of references on each side, but there are 4 authentic; enrol more specimens, "
            "or choose a larger alpha before you look at scores.",
        ),
        ((20, 9), "it fits neither the authentic nor the other references at alpha 0.1."),
    ],
)
def test_specimens_are_counted_where_references_share_them(reasons, specimens, said):
    compared = Compared(
        "sound",
        {"sound": 20, "crack": 9},
        sum(specimens),
        dict(zip(("authentic", "not authentic"), specimens, strict=True)),
    )
    open_ = {"decision": "inconclusive", "p_values": {"authentic": 0.05, "not authentic": 0.05}}
    assert reasons(references=specimens, compared_with=compared, **open_)[-1] == f"Inconclusive: {said}"


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ((), "No region departs"),
        (
            (REGION,),
            "One region departs from the authentic references; region 1 covers 400 px² about x = 32 px, y = 16 px",
        ),
        ((REGION, REGION), "2 regions depart from the authentic references; the strongest, region 1, covers 400 px²"),
        ((REGION,) * MAX_REGIONS, f"{MAX_REGIONS} or more regions depart"),
        ((replace(REGION, area_px=13154),), "region 1 covers 13\u202f154 px²"),
        ((IN_UM,), "region 1 covers 100 µm² about x = 16 µm, y = 8.25 µm."),
    ],
)
def test_regions_are_counted_and_the_strongest_is_placed(reasons, regions, said):
    assert said in reasons(regions=regions)[1]


def test_the_nearest_reference_is_named_with_its_class(reasons):
    nearest = (NearestReference("b.tif", "crack", 0.9), NearestReference("a.tif", "sound", 0.8))
    said = "Nearest in overall appearance, which is no part of the decision: b.tif (crack), similarity 0.90."
    assert reasons(nearest=nearest)[-1] == said


def test_a_surface_that_was_recognised_is_told_with_its_reference(reasons):
    lines = reasons(
        score=0.99,
        decision="authentic",
        contributions={"pooled": 0.5, CORRESPONDENCE: -6.0},
        recognised=RecognisedSurface("bowl/1.tif", "authentic", 87),
    )
    assert lines[0].startswith(
        "The strongest evidence for authenticity is its surface, recognised from an authentic reference "
        "(correspondence, \u22126.00"
    )
    assert lines[1] == "It shows the surface of reference bowl/1.tif (authentic): 87 keypoints match."


@pytest.mark.parametrize(
    ("surface", "pooled", "offset", "doubtful"),
    [(-6, 1, 0.0, True), (-6, -1, 0.0, False), (-6, -1, 2.0, True), (-6, 1, -2.0, False), (6, 1, 2.0, False)],
)
def test_a_recognised_surface_is_doubted_where_the_rest_with_the_offset_is_against_it(
    surface, pooled, offset, doubtful
):
    assert changed({CORRESPONDENCE: surface, "pooled": pooled}, offset) is doubtful


def test_a_side_with_enough_references_can_be_decided_on():
    def enrolled(inside, outside):
        sides = {"authentic": inside, "not authentic": outside}
        compared = Compared("sound", {"sound": inside, "crack": outside}, inside + outside, sides)
        verifier = SimpleNamespace(p_values=lambda _: dict.fromkeys(sides, 0.5))
        return SimpleNamespace(verifier=verifier, compared=compared)

    assert undecidable(enrolled(9, 3), 0.1) is None
    assert undecidable(enrolled(3, 9), 0.1) is None
    assert "needs 9 references on each side" in undecidable(enrolled(8, 3), 0.1)


def test_another_magnification_is_told_with_both_sizes_in_place_of_another_subject(reasons):
    compared = Compared(
        "sound",
        {"sound": 9},
        9,
        {"authentic": 9, "not authentic": 0},
        with_pixel_size=9,
        smallest_pixel_um=0.24,
        largest_pixel_um=0.3,
    )
    first, *_ = reasons(decision="inconclusive", in_scope=False, pixel_size_um=24.0, compared_with=compared)
    assert first.startswith("Out of scope: its pixels are 24 µm wide, but those of the references 0.24 to 0.3 µm")
    strange, *_ = reasons(decision="inconclusive", in_scope=False, pixel_size_um=0.3, compared_with=compared)
    assert strange == OUT_OF_SCOPE


def test_no_kind_speaks_for_a_micrograph_in_the_words_that_are_against_it(reasons):
    for kind in set(MEANING) - {"pooled", CORRESPONDENCE}:
        against = reasons(score=0.1, contributions={kind: 1.0})[0]
        in_favour = reasons(score=0.9, decision="authentic", contributions={kind: -1.0})[0]
        assert against.startswith(f"The strongest evidence against authenticity is {MEANING[kind]} (")
        assert in_favour.startswith("The strongest evidence for authenticity is that ")
