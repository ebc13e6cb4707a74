"""Inspecting: consistent verdicts on micrographs of every size and bit depth."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from fusion_diff.errors import EnrolmentError, MicrographError
from fusion_diff.fewshot.decision import decide
from fusion_diff.micrograph import Micrograph
from fusion_diff.micrograph.tiles import Grid
from fusion_diff.verdict.reasons import OUT_OF_SCOPE


def pixels_of(draw, form: str) -> np.ndarray:
    if form == "small":
        return draw("fine", 50, size=(160, 160))
    if form == "colour":
        grey = draw("coarse", 50, size=(300, 500)).astype(float)
        return np.stack([grey, 0.9 * grey, 0.6 * grey], axis=2).astype(np.uint8)
    if form == "16-bit":
        return draw("coarse", 51, size=(250, 260)).astype(np.uint16) * 200
    return draw("coarse", 52)


def test_editing_a_verdict_changes_no_other(enrolled, draw):
    sample = Micrograph.from_array(draw("fine", 0))
    first = enrolled.inspect(sample)
    told = first.to_dict()["compared_with"]
    first.compared_with.counts["fine"] = 999
    first.compared_with.figures.clear()
    enrolled.enrolment.counts["fine"] = 999
    assert enrolled.inspect(sample).to_dict()["compared_with"] == told


def test_a_reference_is_told_by_its_file_and_page(enrolled, make_references):
    reference = make_references({"fine": 5, "coarse": 5})[0]
    note = f"It is the reference {reference.name}, which the model learned from: its score and p-values say nothing"
    assert enrolled.inspect(reference.micrograph).notes[-1].startswith(note)
    assert not any(
        "It is the reference" in line for line in enrolled.inspect(replace(reference.micrograph, page=1)).notes
    )


@pytest.mark.parametrize("form", ["small", "one tile", "colour", "16-bit"])
def test_the_parts_of_an_inspection_agree(enrolled, draw, form):
    pixels = pixels_of(draw, form)
    micrograph = Micrograph.from_array(pixels, pixel_size_um=0.4)
    it = enrolled.inspect(micrograph, alpha=0.2)
    assert (it.height, it.width) == pixels.shape[:2]
    assert it.file_sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert it.model_sha256 == enrolled.sha256
    assert it.references_sha256 == enrolled.enrolment.references_sha256
    assert it.source is None
    assert it.pixel_size_um == 0.4
    assert it.seconds > 0

    assert 0 < it.score < 1
    assert it.in_scope is True
    assert it.decision == decide(it.p_values, it.alpha, 10)
    assert set(it.p_values) == {"authentic", "not authentic"}
    assert all(0 < p <= 1 for p in it.p_values.values())
    assert (it.predicted_class == "fine") == (it.score >= 0.5)
    log_odds = np.log(1 / it.score - 1)
    assert sum(it.contributions.values()) + it.offset == pytest.approx(log_odds, abs=1e-3)
    assert it.calibrated is True
    assert it.compared_with == enrolled.enrolment.compared
    assert it.compared_with.sides == {"authentic": 5, "not authentic": 5}
    assert it.compared_with.pixel_sizes == "0.5 µm"
    assert it.notes == ()

    native = it.evidence.native()
    assert native.shape == pixels.shape[:2]
    assert np.isfinite(native).all()
    assert it.threshold >= 0
    for region in it.regions:
        assert 0 <= region.top < region.top + region.height <= it.height
        assert 0 <= region.left < region.left + region.width <= it.width
        assert region.top <= region.centroid_row <= region.top + region.height
        assert region.left <= region.centroid_column <= region.left + region.width
        assert 0 < region.area_px <= region.height * region.width
        assert region.peak_evidence >= region.mean_evidence > it.threshold
        assert region.area_um2 == pytest.approx(region.area_px * 0.4**2, rel=0.05, abs=0.1)
    assert bool(it.regions) == bool((it.evidence.values > it.threshold).any())

    assert 1 <= len(it.nearest) <= 3
    assert {reference.name for reference in it.nearest} <= set(enrolled.enrolment.names)
    assert it.reasons
    assert it.to_dict()["decision"] == it.decision


def test_a_reference_resembles_itself_most(enrolled, draw):
    inspection = enrolled.inspect(Micrograph.from_array(draw("coarse", 3)))
    assert inspection.nearest[0].label == "coarse"
    assert inspection.nearest[0].name == enrolled.enrolment.names[5 + 3]
    assert inspection.nearest[0].similarity > 0.99


def test_with_five_references_a_side_decisions_are_made_at_alpha_0_2(enrolled, draw):
    for kind, decision in (("fine", "authentic"), ("coarse", "not authentic")):
        decisions = [enrolled.inspect(Micrograph.from_array(draw(kind, 60 + s)), alpha=0.2).decision for s in range(3)]
        assert decision in decisions
        assert {"fine": "not authentic", "coarse": "authentic"}[kind] not in decisions
        assert enrolled.inspect(Micrograph.from_array(draw(kind, 60)), alpha=0.1).decision == "inconclusive"


def test_inspecting_twice_gives_the_same_verdict(enrolled, draw):
    micrograph = Micrograph.from_array(draw("fine", 70, size=(240, 300)))
    first, second = enrolled.inspect(micrograph), enrolled.inspect(micrograph)
    np.testing.assert_array_equal(first.evidence.values, second.evidence.values)
    assert first.score == second.score
    assert first.p_values == second.p_values


def test_8_and_16_bits_of_the_same_image_get_the_same_verdict(enrolled, draw):
    grey = draw("coarse", 71, size=(230, 300))
    shallow = enrolled.inspect(Micrograph.from_array(grey))
    for deep in (grey.astype(np.uint16) * 257, grey.astype(np.float32) / 255, grey.astype(np.int32) * 1000 - 500):
        inspection = enrolled.inspect(Micrograph.from_array(deep))
        assert inspection.score == pytest.approx(shallow.score, abs=1e-3)
        assert inspection.decision == shallow.decision
        np.testing.assert_allclose(inspection.evidence.values, shallow.evidence.values, atol=1e-2)


def test_grey_and_the_same_grey_in_three_channels_get_the_same_verdict(enrolled, draw):
    grey = draw("fine", 72)
    one = enrolled.inspect(Micrograph.from_array(grey))
    three = enrolled.inspect(Micrograph.from_array(np.repeat(grey[..., None], 3, axis=2)))
    assert three.score == pytest.approx(one.score, abs=5e-3)  # percentiles of thrice the values differ slightly


@pytest.mark.parametrize("subject", ["stripes", "disc"])
def test_another_subject_is_out_of_scope_and_nothing_is_decided(enrolled, subject, monkeypatch):
    row, column = np.mgrid[:224, :224]
    pattern = column // 16 % 2 if subject == "stripes" else np.hypot(row - 112, column - 112) < 60
    verifier = enrolled.enrolment.verifier
    lenient = replace(verifier, outside=verifier.inside - 1)  # anything stranger is consistent with the other side
    monkeypatch.setattr(enrolled, "enrolment", replace(enrolled.enrolment, verifier=lenient))
    inspection = enrolled.inspect(Micrograph.from_array((255 * pattern).astype(np.uint8)), alpha=0.2)
    assert inspection.in_scope is False
    assert decide(inspection.p_values, 0.2, 10) == "not authentic", "its score alone would have decided"
    assert inspection.decision == "inconclusive"
    assert inspection.reasons[0] == OUT_OF_SCOPE
    assert inspection.to_dict()["in_scope"] is False


def test_a_flaw_alone_leaves_a_micrograph_in_scope(enrolled, draw):
    for seed in range(60, 63):
        inspection = enrolled.inspect(Micrograph.from_array(draw("bar", seed)))
        assert inspection.in_scope
        assert OUT_OF_SCOPE not in inspection.reasons


def test_a_large_micrograph_has_the_evidence_of_its_tiles(narrow, make_references, draw):
    narrow.enroll(make_references({"fine": 3, "coarse": 3}))
    pixels = draw("fine", 73, size=(1500, 1500))
    pixels[::8, ::8], pixels[4::8, 4::8] = 0, 255  # the same contrast range everywhere
    whole = narrow.inspect(Micrograph.from_array(pixels))
    assert whole.evidence.values.shape == (188, 188)
    grid = Grid.of(1500, 1500, tile=narrow.encoder.tile, stride=8)
    low, high = Micrograph.from_array(pixels).contrast_range
    for tile in list(grid.tiles())[::13]:
        top, left = tile.top * 8, tile.left * 8
        cut = np.pad(pixels, ((0, 4), (0, 4)), mode="edge")[top : top + 224, left : left + 224]
        alone = Micrograph.from_array(cut)
        assert alone.contrast_range == (low, high)
        evidence = narrow.inspect(alone).evidence.values
        inside = tuple(
            slice(kept[0] - first, kept[1] - first)
            for kept, first in ((tile.rows, tile.top), (tile.columns, tile.left))
        )
        kept = whole.evidence.values[slice(*tile.rows), slice(*tile.columns)]
        np.testing.assert_allclose(kept, evidence[inside], atol=1e-2)


def test_a_flaw_in_a_corner_of_a_large_micrograph_is_found_there(model, make_references, draw):
    model.enroll(make_references({"fine": 4, "bar": 4}, marked=True))
    pixels = draw("fine", 74, size=(700, 900))
    pixels[620:640, 800:860] = 10
    inspection = model.inspect(Micrograph.from_array(pixels))
    assert inspection.regions
    strongest = inspection.regions[0]
    assert 600 <= strongest.centroid_row <= 660
    assert 780 <= strongest.centroid_column <= 880
    assert inspection.evidence.native(600, 780, 60, 100).max() == pytest.approx(
        inspection.evidence.values.max(), rel=0.2
    )


def test_a_model_without_references_says_to_enrol(model, draw):
    with pytest.raises(EnrolmentError, match=r"model\.enroll"):
        model.inspect(Micrograph.from_array(draw("fine", 0)))


@pytest.mark.parametrize("wrong", ["sample.tif", None, 3, np.zeros((64, 64))])
def test_what_is_not_a_micrograph_is_refused_with_a_hint(enrolled, wrong):
    with pytest.raises(MicrographError, match=r"load_microstructure_data|from_array"):
        enrolled.inspect(wrong)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 5e-324, 1.5, float("nan"), "0.1", None])
def test_alpha_lies_between_0_and_1(enrolled, draw, alpha):
    with pytest.raises(ValueError, match="alpha"):
        enrolled.inspect(Micrograph.from_array(draw("fine", 0)), alpha=alpha)


@pytest.mark.parametrize("alpha", [np.float32(0.25), Fraction(1, 4)])
def test_a_verdict_is_ready_for_json_whatever_type_alpha_has(enrolled, draw, alpha):
    it = enrolled.inspect(Micrograph.from_array(draw("fine", 0)), alpha=alpha)
    assert json.loads(json.dumps(it.to_dict()))["alpha"] == 0.25


@pytest.mark.parametrize("size", [0.05, 50.0])
def test_another_magnification_is_out_of_scope_and_its_score_as_it_was(enrolled, draw, size):
    pixels = draw("fine", 60)
    there = enrolled.inspect(Micrograph.from_array(pixels, pixel_size_um=0.5), alpha=0.2)
    inspection = enrolled.inspect(Micrograph.from_array(pixels, pixel_size_um=size), alpha=0.2)
    assert (there.in_scope, there.decision) == (True, "authentic")
    assert (inspection.in_scope, inspection.decision) == (False, "inconclusive")
    assert inspection.reasons[0].startswith(
        f"Out of scope: its pixels are {size:g} µm wide, but those of the references 0.5 µm"
    )
    assert inspection.score == there.score


def test_a_pixel_size_that_is_unknown_is_noted(enrolled, draw):
    inspection = enrolled.inspect(Micrograph.from_array(draw("fine", 60)))
    assert inspection.in_scope
    assert inspection.notes == (
        "Its pixel size is unknown, so it could not be compared with that of the references, 0.5 µm.",
    )


@pytest.mark.parametrize(("side", "noted"), [(160, None), (112, "2.0"), (40, "5.6")])
def test_a_small_crop_is_noted_with_its_enlargement(enrolled, draw, side, noted):
    crop = draw("fine", 60)[:side, : side + 30]
    notes = enrolled.inspect(Micrograph.from_array(crop, pixel_size_um=0.5)).notes
    assert notes == (
        ()
        if noted is None
        else (f"It is small, so it was enlarged {noted} times; compare it only with references of its size.",)
    )


def test_a_micrograph_that_is_enlarged_less_than_the_references_is_noted(narrow, make_references, draw):
    enrolment = narrow.enroll(make_references({"fine": 2, "coarse": 2}, size=(64, 80)))
    (told,) = [line for line in enrolment.warnings() if "enlarged" in line]
    assert told.startswith("4 of 4 references are small and were enlarged, up to 3.5 times: to the model larger")
    for side, times in ((64, None), (90, None), (112, "2.0"), (260, "1.0")):
        pixels = draw("fine", 60, size=(side, side + 9))
        assert narrow.inspect(Micrograph.from_array(pixels, pixel_size_um=0.5)).notes == (
            ()
            if times is None
            else (
                f"The references are small, so they were enlarged 3.5 times or more, but it only {times} times: to the "
                "model that is another magnification. Enrol references of its size, or inspect parts of their size.",
            )
        )
