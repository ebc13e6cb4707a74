"""Enrolling: from labelled references to a verifier."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from fusion_diff.errors import ArgumentError, EnrolmentError
from fusion_diff.fewshot.correspondence import CORRESPONDENCE, LOG_ODDS
from fusion_diff.micrograph import Micrograph
from fusion_diff.references import Reference, ReferenceSet


def test_labels_alone_suffice(enrolled, draw):
    assert enrolled.enrolment.counts == {"fine": 5, "coarse": 5}
    assert enrolled.enrolment.figures["auroc"] == 1
    assert enrolled.enrolment.seconds > 0
    fine, coarse = (enrolled.inspect(Micrograph.from_array(draw(kind, 99))) for kind in ("fine", "coarse"))
    assert fine.score > 0.5 > coarse.score
    assert (fine.predicted_class, coarse.predicted_class) == ("fine", "coarse")


@pytest.mark.parametrize("references", ["references", [], None])
def test_what_is_no_reference_set_is_refused_with_what_makes_one(model, references):
    with pytest.raises(EnrolmentError, match=r"must be a ReferenceSet, not a .*ReferenceSet\.from_folder"):
        model.enroll(references)


def test_what_differs_as_a_whole_can_be_said(model, make_references, draw):
    enrolment = model.enroll(make_references({"fine": 3, "coarse": 3}), difference="whole")
    assert enrolment.figures["weight of pooled"] == pytest.approx(0.8)
    fine, coarse = (model.inspect(Micrograph.from_array(draw(kind, 99))) for kind in ("fine", "coarse"))
    assert fine.score > 0.5 > coarse.score
    assert abs(coarse.contributions["pooled"]) > sum(coarse.contributions.values()) / 2


@pytest.mark.parametrize(
    ("counts", "difference", "error", "cure"),
    [
        ({"fine": 2}, "whole", EnrolmentError, "add references of another class"),
        ({"fine": 2, "coarse": 2}, "texture", ArgumentError, "must be 'any' or 'whole', not 'texture'"),
    ],
)
def test_a_difference_that_cannot_be_is_refused_before_anything_is_encoded(
    model, make_references, counts, difference, error, cure
):
    def encoded(done, total):
        raise AssertionError("a reference was encoded")

    with pytest.raises(error, match=cure):
        model.enroll(make_references(counts), difference=difference, progress=encoded)


def test_marks_show_where_to_look(model, make_references, draw):
    model.enroll(make_references({"fine": 4, "bar": 4}, marked=True))
    assert all(
        (bag.mark is not None) == (label == "bar")
        for bag, label in zip(model.enrolment.bags, model.enrolment.labels, strict=True)
    )
    pixels = draw("bar", 99)
    inspection = model.inspect(Micrograph.from_array(pixels))
    assert inspection.score < 0.5
    flaw, evidence = pixels == 10, inspection.evidence.native()
    assert evidence[flaw].mean() > evidence[~flaw].mean() + 1
    row, column = np.unravel_index(evidence.argmax(), evidence.shape)
    assert flaw[max(0, row - 12) : row + 13, max(0, column - 12) : column + 13].any()


def test_authentic_references_alone_suffice(model, make_references, draw):
    model.enroll(make_references({"fine": 4}))
    fine, coarse = (model.inspect(Micrograph.from_array(draw(kind, 99))) for kind in ("fine", "coarse"))
    assert fine.score > coarse.score
    assert set(coarse.p_values) == {"authentic"}
    assert coarse.predicted_class == "not fine"
    assert coarse.decision == "not authentic" if coarse.p_values["authentic"] <= coarse.alpha else "authentic"


def test_three_classes_are_told_apart(model, make_references, draw):
    model.enroll(make_references({"fine": 4, "coarse": 3, "bar": 3}, marked=True))
    assert list(model.enrolment.counts) == ["fine", "bar", "coarse"]
    for kind in ("coarse", "bar"):
        assert model.inspect(Micrograph.from_array(draw(kind, 99))).predicted_class == kind


def test_one_of_each_class_scores_and_leaves_every_decision_open(model, make_references, draw):
    enrolment = model.enroll(make_references({"fine": 1, "coarse": 1}))
    inspection = model.inspect(Micrograph.from_array(make_references({"fine": 2})[1].micrograph.levels))
    assert inspection.calibrated is False
    assert inspection.p_values == {}
    assert "too few references to calibrate the score" in inspection.reasons[-1]
    assert any("too few references" in warning for warning in enrolment.warnings())
    fine, coarse = (model.inspect(Micrograph.from_array(draw(kind, 99))) for kind in ("fine", "coarse"))
    assert fine.score > coarse.score
    assert fine.decision == coarse.decision == "inconclusive"
    assert any("too few references" in reason for reason in fine.reasons)


def told(call):
    """Return the texts of the warnings that a call gives, all of which point here."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert {each.filename for each in caught} <= {__file__}
    return [str(each.message) for each in caught]


def test_what_makes_scores_mean_little_is_warned_of_once_when_it_is_learned(narrow, make_references, draw):
    few = make_references({"fine": 1, "coarse": 1})
    text, ungrouped = told(lambda: narrow.enroll(few))
    assert text.startswith("too few references to cross-fit")
    assert ungrouped.startswith("no groups are given")
    images = [Micrograph.from_array(draw("fine", seed)) for seed in range(8)]
    by_chance = ReferenceSet.from_micrographs(images, ["a", "b"] * 4, authentic="a", groups=map(str, range(8)))
    (text,) = told(lambda: narrow.enroll(by_chance))
    assert text.startswith("the model separates authentic references from the others little better than chance")
    assert text in narrow.enrolment.warnings()
    groups = ["piece", "piece", "1", "2", "3", "4"]
    one = ReferenceSet.from_micrographs(
        [each.micrograph for each in make_references({"fine": 2, "coarse": 4})],
        ["fine"] * 2 + ["coarse"] * 4,
        authentic="fine",
        groups=groups,
    )
    (text,) = told(lambda: narrow.enroll(one))
    assert text.startswith("the references of one side come from a single group")
    micrograph = Micrograph.from_array(draw("fine", 99))
    assert told(lambda: narrow.inspect(micrograph)) == []
    (text,) = told(lambda: narrow.inspect(micrograph, shots=1))
    assert text.startswith("too few references to cross-fit")
    assert told(lambda: narrow.inspect(micrograph, shots=1)) == []
    assert told(lambda: narrow.enroll(make_references({"fine": 3, "coarse": 3}))) == [ungrouped]
    (alone,) = told(lambda: narrow.enroll(make_references({"fine": 4})))[:-1]
    assert alone.startswith("authentic references alone of 4 specimens are too few for a score")
    assert told(lambda: narrow.enroll(make_references({"fine": 5}))) == [ungrouped]


def test_a_score_is_calibrated_by_two_specimens_of_each_side_or_more(narrow, make_references):
    references = [each.micrograph for each in make_references({"fine": 2, "coarse": 2})]
    for groups, calibrated in ((["a", "b", "c", "d"], True), (["a", "a", "c", "d"], False), (["a"] * 4, False)):
        narrow.enroll(
            ReferenceSet.from_micrographs(
                references, ["fine", "fine", "coarse", "coarse"], authentic="fine", groups=groups
            )
        )
        inspection = narrow.inspect(references[0])
        assert inspection.calibrated is calibrated
        assert set(inspection.p_values) == {"authentic", "not authentic"}


def test_one_authentic_reference_and_nothing_else_is_refused(model, make_references):
    with pytest.raises(EnrolmentError, match="one authentic reference alone is not enough"):
        model.enroll(make_references({"fine": 1}))
    assert model.enrolment is None


def test_references_of_many_sizes_and_depths_enrol_together(narrow, draw):
    from fusion_diff.references import ReferenceSet

    images = [
        draw("fine", 0, size=(160, 160)),
        draw("fine", 1, size=(240, 300)).astype(np.uint16) * 257,
        np.repeat(draw("coarse", 0, size=(100, 120))[..., None], 3, axis=2),
        draw("coarse", 1).astype(np.float64) / 255,
    ]
    micrographs = [Micrograph.from_array(pixels) for pixels in images]
    enrolment = narrow.enroll(
        ReferenceSet.from_micrographs(micrographs, ["fine", "fine", "coarse", "coarse"], authentic="fine")
    )
    sizes = [28 * 28, 30 * 38, 28 * 34, 28 * 28]
    assert [len(bag.tokens) for bag in enrolment.bags] == [2 * size for size in sizes], "each with its mirror image"


def test_progress_counts_every_reference(narrow, make_references):
    steps = []
    narrow.enroll(
        make_references({"fine": 2, "coarse": 1}),
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_progress_counts_what_the_diffusion_path_does_too(narrow, make_references):
    steps = []
    narrow.enroll(
        make_references({"fine": 2, "coarse": 2}),
        reconstruction=True,
        detect_attacks=True,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(done, 12) for done in range(1, 13)]


def test_enrolling_again_replaces_what_was_enrolled(narrow, make_references):
    first = narrow.enroll(make_references({"fine": 2, "coarse": 2}))
    second = narrow.enroll(make_references({"fine": 3, "bar": 2}))
    assert narrow.enrolment is second
    assert second.counts == {"fine": 3, "bar": 2}
    assert first.references_sha256 != second.references_sha256


def test_enrolling_returns_its_own_enrolment_even_if_another_thread_enrols_at_once(model, make_references):
    first, second = make_references({"fine": 2, "coarse": 2}), make_references({"fine": 2})

    def enrol(*_, **__) -> None:
        if model.enrolment is not None and model.enrolment.references_sha256 == first.sha256:
            model.enroll(second)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = enrol
        assert model.enroll(first).references_sha256 == first.sha256
    assert model.enrolment.references_sha256 == second.sha256


def test_enrolling_the_same_references_twice_learns_the_same(narrow, make_references):
    references = make_references({"fine": 2, "coarse": 2})
    first, second = (narrow.enroll(references, reconstruction=True) for _ in range(2))
    for one, other in zip(first.bags, second.bags, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.residual, other.residual)
    assert first.verifier.inside.tolist() == second.verifier.inside.tolist()
    assert first.references_sha256 == second.references_sha256 == references.sha256


def test_unless_asked_for_the_diffusion_path_is_neither_run_nor_weighed(narrow, make_references):
    enrolment = narrow.enroll(make_references({"fine": 2, "coarse": 2}))
    assert "weight of reconstruction" not in enrolment.figures
    assert not enrolment.verifier.needs_residual
    assert "reconstruction" not in narrow.__dict__, "the prior was not even loaded"


def test_where_asked_for_the_diffusion_path_is_considered(enrolled):
    assert "weight of reconstruction" in enrolled.enrolment.figures
    assert all(bag.residual.shape[1] == 2 for bag in enrolled.enrolment.bags)


def test_a_view_of_an_enrolled_object_is_recognised_and_said_to_be(narrow, draw, tmp_path):
    bowls = {name: draw(name, 70, size=(240, 480)) for name in ("fine", "coarse")}
    views = [
        Reference(Micrograph.from_array(bowl[:, left : left + 240]), name, f"{name} {left}", f"{name}/{left}.tif")
        for name, bowl in bowls.items()
        for left in (0, 60, 200)
    ]
    narrow.enroll(ReferenceSet(views, authentic="fine"))
    it = narrow.inspect(Micrograph.from_array(bowls["coarse"][:, 230:470]))
    assert it.recognised.name == "coarse/200.tif"
    assert it.contributions[CORRESPONDENCE] == LOG_ODDS
    assert it.to_dict()["recognised"]["label"] == "coarse"
    assert any("It shows the surface of reference coarse/200.tif (coarse)" in line for line in it.reasons)
    narrow.save_pretrained(tmp_path / "model")
    again = type(narrow).from_pretrained(tmp_path / "model").inspect(Micrograph.from_array(bowls["coarse"][:, 230:470]))
    assert again.recognised == it.recognised
    assert again.score == it.score


def test_a_reference_that_has_a_flaw_since_is_recognised_and_not_called_authentic(model, make_references, draw):
    model.enroll(make_references({"fine": 4, "bar": 4}, marked=True))
    surface = draw("fine", 0)
    again = model.inspect(Micrograph.from_array(surface), alpha=0.25)
    assert (again.recognised.label, again.decision) == ("fine", "authentic")
    surface[60:72, 80:120] = surface[150:162, 40:80] = 10
    since = model.inspect(Micrograph.from_array(surface), alpha=0.25)
    assert (since.recognised.label, since.decision) == ("fine", "inconclusive")
    assert since.p_values["authentic"] > 0.25 >= since.p_values["not authentic"], "the surface alone would decide"
    assert "authentic reference, but the rest of the evidence, added up, is against it" in since.reasons[-1]
