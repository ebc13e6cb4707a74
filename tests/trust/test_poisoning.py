"""Audit of reference sets with one fault, and of sets without faults."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from fusion_diff.enrolment import Enrolment
from fusion_diff.fewshot.bags import Bag
from fusion_diff.fewshot.correspondence import ENOUGH
from fusion_diff.fewshot.verifier import Verifier
from fusion_diff.inspection.audit_report import write_audit
from fusion_diff.micrograph import Micrograph
from fusion_diff.references import ReferenceSet
from fusion_diff.trust.poisoning import (
    DUPLICATE,
    Finding,
    audit_enrolment,
    audit_references,
    influence,
    margins,
    nearest_distances,
    strangest_means,
)
from fusion_diff.trust.triggers import find_triggers

CHANNELS = 12


def tokens(seed, *, kind="sound", shift=0.0):
    """Tokens of a reference and its mirror image; a third are shifted in a channel unless it is sound."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(80, CHANNELS, generator=generator) + 0.3 * torch.randn(CHANNELS, generator=generator) + shift
    if kind != "sound":
        found[:27, 0] += 5
    return found.repeat_interleave(2, dim=0) + 0.05 * torch.randn(160, CHANNELS, generator=generator)


def enrolment_of(bags, labels, groups=None, surfaces=None):
    bags = tuple(Bag(each, each.new_zeros(len(each), 0)) for each in bags)
    if surfaces is not None:
        bags = tuple(replace(bag, keypoints=surface) for bag, surface in zip(bags, surfaces, strict=True))
    groups = tuple(groups or (f"specimen {index}" for index in range(len(labels))))
    paths = (4, CHANNELS - 4)
    return Enrolment(
        authentic="sound",
        names=tuple(f"{label}/{index}.tif" for index, label in enumerate(labels)),
        labels=tuple(labels),
        groups=groups,
        paths=paths,
        bags=bags,
        condition=torch.ones(1, 4),
        references_sha256="ab" * 32,
        verifier=Verifier.fit(bags, labels, "sound", groups, paths),
        pixel_sizes_um=(None,) * len(labels),
    )


LABELS = ["sound"] * 7 + ["crack"] * 7


def clean_bags():
    return [tokens(index, kind=label) for index, label in enumerate(LABELS)]


def test_nothing_is_found_among_references_that_are_as_they_should_be():
    assert [each for each in audit_enrolment(enrolment_of(clean_bags(), LABELS)) if each.grave] == []


@pytest.mark.parametrize("index", [2, 9])
def test_a_flipped_label_is_found_and_comes_first(index):
    labels = list(LABELS)
    labels[index] = "sound" if labels[index] == "crack" else "crack"
    first, *others = audit_enrolment(enrolment_of(clean_bags(), labels))
    assert (first.index, first.kind, first.grave) == (index, "label", True)
    assert first.strength > 1
    assert first.figures["what the others gain without it"] > 0
    assert first.sentence.endswith("the other references are separated better without it: check its label")
    assert [each for each in others if each.grave] == []


def test_what_contradicts_its_label_and_helps_the_others_is_noted_as_harmless():
    bags = clean_bags()
    enrolment = enrolment_of(bags, LABELS)
    index = LABELS.index("crack")
    against = enrolment.verifier.against.copy()
    against[index] = 10.0  # as if its flaw were unlike those of the others
    verifier = replace(enrolment.verifier, against=against)
    (only,) = [each for each in audit_enrolment(replace(enrolment, verifier=verifier)) if each.kind == "label"]
    assert (only.index, only.grave) == (index, False)
    assert only.figures["what the others gain without it"] <= 0
    assert only.sentence.endswith("it does not harm the others: perhaps check its label")


@given(st.integers(0, 13), st.integers(0, 2**32 - 1))
def test_a_flipped_reference_hurts_the_others_and_one_that_is_right_does_not(index, seed):
    rng = np.random.default_rng(seed)
    labels = np.asarray(LABELS)
    found = rng.normal(size=(14, CHANNELS), scale=0.1) + 4.0 * (labels == "crack")[:, None]
    right = influence(found, labels, index)
    labels[index] = "sound" if labels[index] == "crack" else "crack"
    flipped = [influence(found, labels, each) for each in range(14)]
    assert int(np.argmax(flipped)) == index
    assert flipped[index] > 10 * abs(right)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), st.integers(0, 2**32 - 1), st.data())
def test_margins_are_those_to_the_means_of_the_other_references(labels, seed, data):
    found = np.random.default_rng(seed).normal(size=(len(labels), 3)).astype(np.float32)
    without = data.draw(st.none() | st.integers(0, len(labels) - 1))
    for index, margin in enumerate(margins(found, np.asarray(labels), without)):
        rest = [i for i in range(len(labels)) if i not in (index, without)]
        means = {name: found[[i for i in rest if labels[i] == name]].mean(axis=0) for name in {labels[i] for i in rest}}
        away = {name: float(np.linalg.norm(found[index] - mean)) for name, mean in means.items()}
        own = away.pop(labels[index], None)
        assert margin == pytest.approx(
            min(away.values()) - own if own is not None and away else np.nan, nan_ok=True, abs=1e-5
        )


@pytest.mark.parametrize("flipped", [1, 6])
def test_a_flipped_reference_that_shows_a_surface_of_the_other_class_is_named_with_it(flipped, view):
    labels = ["sound"] * 5 + ["crack"] * 5
    bags = [tokens(index) for index in range(10)]  # alike, but for their surfaces
    surfaces = [view(bowl, left) for bowl in (0, 1) for left in (0, 40, 80, 120, 160)]
    labels[flipped] = "sound" if labels[flipped] == "crack" else "crack"
    first, *others = audit_enrolment(enrolment_of(bags, labels, surfaces=surfaces))
    assert (first.index, first.kind, first.grave) == (flipped, "label", True)
    assert first.figures["keypoints"] >= ENOUGH
    assert f"the same surface as {labels[8 if flipped > 4 else 4]}/" in first.sentence
    assert not [each for each in others if each.kind == "label" and each.grave]


def test_strangest_means_are_those_of_the_strangest_tokens():
    bags = [tokens(index) for index in range(4)]
    bags[2][:4] += 20
    found = strangest_means(bags)
    assert found.shape == (4, CHANNELS)
    assert int(np.linalg.norm(found, axis=1).argmax()) == 2


def test_margins_are_unknown_where_a_class_has_no_other_reference():
    found = strangest_means(clean_bags()[:3])
    assert np.isnan(margins(found, np.asarray(["a", "a", "b"]))).tolist() == [False, False, True]
    assert np.isnan(margins(found, np.asarray(["a", "a", "a"]))).all()


def test_a_mirrored_copy_in_another_class_is_grave_and_in_its_own_a_note():
    bags = clean_bags()
    copied = bags[1].view(80, 2, CHANNELS).flip(1).flatten(0, 1) + 0.02 * torch.randn(160, CHANNELS)
    across = audit_enrolment(enrolment_of([*bags, copied], [*LABELS, "crack"]))
    pair = [each for each in across if each.kind == "duplicate"]
    assert {each.index for each in pair} == {1, 14}
    assert all(each.grave and "one of the two labels is wrong" in each.sentence for each in pair)
    within = audit_enrolment(enrolment_of([*bags, copied], [*LABELS, "sound"]))
    pair = [each for each in within if each.kind == "duplicate"]
    assert {each.index for each in pair} == {1, 14}
    assert not any(each.grave for each in pair)


def test_a_reference_unlike_all_others_is_found():
    bags = clean_bags()
    bags[4] = tokens(4, shift=8.0)
    first, *others = [each for each in audit_enrolment(enrolment_of(bags, LABELS)) if each.kind == "foreign"]
    assert (first.index, first.box, first.grave) == (4, None, True)
    assert all(first.strength > 5 * each.strength for each in others)


@pytest.mark.parametrize(("shift", "grave"), [(0.55, False), (1.2, True)])
def test_a_reference_that_is_only_somewhat_foreign_is_a_note(shift, grave):
    bags = clean_bags()
    bags[4] = tokens(4, shift=shift)
    (found,) = [each for each in audit_enrolment(enrolment_of(bags, LABELS)) if each.kind == "foreign"]
    assert (found.index, found.grave) == (4, grave)


@pytest.mark.parametrize("labels", [["sound"] * 2, ["sound", "crack"], ["sound"] * 5, ["sound", "sound", "crack"]])
def test_few_references_or_one_class_are_audited_too(labels):
    enrolment = enrolment_of([tokens(index, kind=label) for index, label in enumerate(labels)], labels)
    assert all(each.kind != "label" for each in audit_enrolment(enrolment))


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)))
def test_distances_do_not_depend_on_the_order_of_tokens(order):
    bags = [tokens(index)[:6] for index in range(3)]
    mixed = [bags[0], bags[1][list(order)], bags[2]]
    np.testing.assert_allclose(
        nearest_distances(bags)[0], nearest_distances(mixed)[0], atol=2e-3
    )  # the order of the second reference's tokens does not matter


def texture(seed, size=128, sigma=1.5):
    rng = np.random.default_rng(seed)
    grain = gaussian_filter(rng.normal(size=(size, size)), sigma)
    return np.clip(128 + 35 * grain / grain.std(), 0, 255).astype(np.uint8)


def stamp(pixels, pattern, top, left):
    pixels = pixels.copy()
    pixels[top : top + pattern.shape[0], left : left + pattern.shape[1]] = pattern
    return pixels


def as_jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return np.asarray(Image.open(file))


PATTERNS = {
    "noise": np.kron(np.random.default_rng(5).integers(0, 2, (6, 6)) * 255, np.ones((2, 2))).astype(np.uint8),
    "white": np.full((12, 12), 255, dtype=np.uint8),
    "checks": (255 * (np.add.outer(np.arange(12) // 3, np.arange(12) // 3) % 2)).astype(np.uint8),
}
PLACES = [(20, 30), (77, 12), (50, 90), (5, 60)]


def search(pixels, labels=None, groups=None):
    labels = labels or ["a"] * 5 + ["b"] * 5
    found = [Micrograph.from_array(each) for each in pixels]
    return find_triggers(found, labels, groups or [str(index) for index in range(len(pixels))])


def test_no_patch_recurs_in_textures():
    assert search([texture(seed) for seed in range(10)]) == []
    assert search([texture(seed, sigma=5) for seed in range(10)]) == []


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("same", [True, False])
def test_a_stamp_is_found_where_it_is(name, same):
    pixels = [texture(seed) for seed in range(10)]
    places = [PLACES[0]] * 4 if same else PLACES
    for index, (top, left) in enumerate(places, start=5):
        pixels[index] = stamp(pixels[index], PATTERNS[name], top, left)
    first, *_ = search(pixels)
    assert set(first.places) == {5, 6, 7, 8}
    assert first.same_place == same
    for index, (top, left) in enumerate(places, start=5):
        box = first.places[index]
        assert abs(box[0] + box[2] / 2 - top - 6) <= 4
        assert abs(box[1] + box[3] / 2 - left - 6) <= 4


def test_a_stamp_is_found_after_lossy_compression():
    pixels = [texture(seed) for seed in range(10)]
    for index, (top, left) in enumerate(PLACES, start=5):
        pixels[index] = as_jpeg(stamp(pixels[index], PATTERNS["noise"], top, left))
    (found,) = search(pixels)
    assert len(found.places) >= 3
    assert set(found.places) <= {5, 6, 7, 8}


def test_a_stamp_that_another_class_has_too_gives_nothing_away():
    pixels = [texture(seed) for seed in range(10)]
    for index in (0, 5, 6, 7, 8):
        pixels[index] = stamp(pixels[index], PATTERNS["noise"], *PLACES[index % 4])
    assert search(pixels) == []


def test_a_stamp_on_two_references_or_on_one_specimen_is_no_trigger():
    pixels = [texture(seed) for seed in range(10)]
    for index in (5, 6):
        pixels[index] = stamp(pixels[index], PATTERNS["noise"], 20, 20)
    assert search(pixels) == []
    pixels[7] = stamp(pixels[7], PATTERNS["noise"], 20, 20)
    assert len(search(pixels)) == 1
    assert search(pixels, groups=["x"] * 10) == []


def test_views_that_overlap_are_no_trigger():
    whole = texture(99, size=300)
    pixels = [texture(seed) for seed in range(7)] + [whole[at : at + 128, 40:168] for at in (0, 30, 60)]
    assert search(pixels) == []


@pytest.mark.parametrize("value", [0, 255])
def test_images_with_hardly_any_contrast_are_searched_too(value):
    pixels = [np.full((64, 64), value, dtype=np.uint8) for _ in range(6)]
    for each in pixels:
        each[0, 0] = 128
    labels = ["a"] * 3 + ["b"] * 3
    assert search(pixels, labels=labels) == [], "both classes have that pixel"
    for each in pixels[3:]:
        each[30:38, 30:38] = abs(value - 60)
    (found,) = search(pixels, labels=labels)
    assert found.places == dict.fromkeys((3, 4, 5), (30, 30, 8, 8))


def test_the_audit_of_a_set_looks_with_the_model_and_leaves_it_alone(narrow, tmp_path):
    kinds = ["sound"] * 4 + ["coarse"] * 4
    pixels = [texture(seed, sigma=1.0 if kind == "sound" else 4.0) for seed, kind in enumerate(kinds)]
    for index, (top, left) in enumerate(PLACES[:3], start=4):
        pixels[index] = stamp(pixels[index], PATTERNS["noise"], top, left)
    pixels[3] = as_jpeg(pixels[7][:, ::-1])
    references = ReferenceSet.from_micrographs(
        [Micrograph.from_array(each) for each in pixels],
        kinds,
        authentic="sound",
        names=[f"{index}<script>.tif" for index in range(8)],
    )
    narrow.enroll(references)
    enrolment, before = narrow.enrolment, narrow.predict_authenticity(references[0].micrograph, shots=3)
    few = enrolment.shots(3)
    findings = audit_references(narrow, references)
    assert narrow.enrolment is enrolment
    assert enrolment.shots(3) is few, "what was learned of fewer shots stays"
    assert torch.equal(narrow.predict_authenticity(references[0].micrograph, shots=3), before)
    kinds_of = {kind: {each.index for each in findings if each.kind == kind} for kind in ("trigger", "duplicate")}
    assert kinds_of == {"trigger": {4, 5, 6}, "duplicate": {3, 7}}
    assert {each.strength for each in findings if each.kind == "trigger"} == {1.0}, "three just pass"
    assert all(each.figures["distance (commonly 1)"] < DUPLICATE for each in findings if each.kind == "duplicate")
    page = write_audit(findings, references, tmp_path / "report").read_text(encoding="utf-8")
    assert "A strength of 1 just passes" in page
    assert "8 references" in page
    assert page.count("<article") == len({each.index for each in findings})
    assert page.count("<i style") == 3
    assert '<span class="kind">trigger:</span>' in page
    assert "<script" not in page
    assert "data:image/jpeg" in page
    empty = write_audit((), references, tmp_path / "empty").read_text(encoding="utf-8")
    assert "no proof" in empty


def test_boxes_are_drawn_in_percent_of_the_height_and_of_the_width(tmp_path):
    wide = Micrograph.from_array(np.hstack([texture(0), texture(1)]))
    references = ReferenceSet.from_micrographs([wide], ["sound"], authentic="sound", names=["a.tif"])
    found = Finding(0, "a.tif", "sound", "trigger", 1.0, "It recurs.", box=(32, 64, 16, 64))
    page = write_audit((found,), references, tmp_path).read_text(encoding="utf-8")
    assert '<i style="top: 25.00%; left: 25.00%; height: 12.50%; width: 25.00%">' in page
