"""Sets of references: order, shots, subsets, digest and checks of the members."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fusion_diff.errors import ReferenceSetError
from fusion_diff.micrograph import Micrograph, load_microstructure_data
from fusion_diff.references import MAX_REFERENCES, Reference, ReferenceSet
from fusion_diff.references.copies import alike
from fusion_diff.references.reference import alike_in_letters


def picture(seed: int, **options: object) -> Micrograph:
    pixels = np.random.default_rng(seed).random((32, 34), dtype=np.float32)
    return Micrograph.from_array(pixels, **options)  # type: ignore[arg-type]


PICTURES = [picture(seed) for seed in range(24)]
FLAW = np.eye(32, 34, dtype=np.uint8)


def build(labels: list[str], authentic: str = "sound", **options: object) -> ReferenceSet:
    return ReferenceSet.from_micrographs(PICTURES[: len(labels)], labels, authentic=authentic, **options)  # type: ignore[arg-type]


labellings = st.lists(st.sampled_from(["sound", "crack", "blowhole", "fake"]), min_size=1, max_size=24).filter(
    lambda labels: "sound" in labels
)


@given(labellings, st.data())
def test_shots_without_groups_are_the_first_k_of_every_class_in_order(labels: list[str], data: st.DataObject) -> None:
    references = build(labels)
    k = data.draw(st.integers(1, max(references.counts.values())))
    few = references.shots(k)
    assert few.counts == {label: min(k, count) for label, count in references.counts.items()}
    assert few.classes == references.classes
    expected = [r.name for i, r in enumerate(references) if labels[: i + 1].count(r.label) <= k]
    assert [reference.name for reference in few] == expected
    assert few.shots(k).sha256 == few.sha256


@given(labellings, st.data())
def test_shots_take_the_specimens_of_a_class_in_turn(labels: list[str], data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.sampled_from("abc"), min_size=len(labels), max_size=len(labels)))
    references = build(labels, groups=groups)
    k = data.draw(st.integers(1, max(references.counts.values())))
    few = references.shots(k)
    names = [reference.name for reference in references]
    assert [r.name for r in few] == sorted((r.name for r in few), key=names.index), "in the order of the set"
    assert few.shots(k).sha256 == few.sha256
    for label in references.classes:
        own = [r for r in references if r.label == label]
        taken = Counter(r.group for r in few if r.label == label)
        assert taken.total() == min(k, len(own))
        for group, count in Counter(r.group for r in own).items():
            first = [r.name for r in own if r.group == group][: taken[group]]
            assert [r.name for r in few if (r.label, r.group) == (label, group)] == first
            assert taken[group] == count or taken[group] >= max(taken.values()) - 1, "no specimen is taken twice early"


def test_five_shots_of_five_specimens_are_of_all_five() -> None:
    references = build(["sound"] * 20, groups=[f"specimen {place // 4}" for place in range(20)])
    assert references.shots(5).groups == tuple(f"specimen {index}" for index in range(5))
    assert [references.references.index(each) for each in references.shots(7)] == [0, 1, 4, 5, 8, 12, 16]


@given(labellings, st.integers(1, 1000))
def test_more_shots_than_any_class_has_are_refused_with_the_counts(labels: list[str], excess: int) -> None:
    references = build(labels)
    with pytest.raises(ReferenceSetError, match=rf"sound {references.counts['sound']}"):
        references.shots(max(references.counts.values()) + excess)


@pytest.mark.parametrize("k", [0, -1, 2.0, "2", None, True, np.float32(1), np.bool_(True)])
def test_shots_must_be_a_whole_number_of_at_least_one(k: object) -> None:
    with pytest.raises(ReferenceSetError, match="whole number"):
        build(["sound", "crack"]).shots(k)  # type: ignore[arg-type]


def test_numpy_integers_are_whole_numbers() -> None:
    references = build(["sound", "sound", "crack"])
    assert len(references.shots(np.int64(1))) == 2  # type: ignore[arg-type]
    assert [r.name for r in references.subset(np.array([2, 0]))] == [references[2].name, references[0].name]  # type: ignore[arg-type]


@given(labellings, st.data())
def test_a_subset_holds_exactly_the_chosen_references_in_the_chosen_order(
    labels: list[str], data: st.DataObject
) -> None:
    references = build(labels)
    chosen = data.draw(st.lists(st.integers(0, len(labels) - 1), unique=True, max_size=len(labels)))
    if any(labels[index] == "sound" for index in chosen):
        subset = references.subset(chosen)
        assert list(subset) == [references[index] for index in chosen]
        assert (subset.sha256 == references.sha256) == (chosen == list(range(len(labels))))
    else:
        with pytest.raises(ReferenceSetError):
            references.subset(chosen)


@pytest.mark.parametrize("indices", [[0, 3], [-1], [0, 0], [0.0], [True, False], [True, 1, 2], ["0"]])
def test_a_subset_refuses_places_that_are_not_distinct_indices(indices: list[object]) -> None:
    with pytest.raises(ReferenceSetError, match=r"ind(ex|ices)"):
        build(["sound", "crack", "crack"]).subset(indices)  # type: ignore[arg-type]


@pytest.mark.parametrize("several", [slice(0, 2), 1, None])
def test_what_is_not_several_is_refused_with_the_cure(several: object) -> None:
    with pytest.raises(ReferenceSetError, match="give a list"):
        build(["sound", "crack"]).subset(several)  # type: ignore[arg-type]
    with pytest.raises(ReferenceSetError, match="give a list"):
        ReferenceSet(several, "sound")  # type: ignore[arg-type]


def test_a_subset_takes_a_mask() -> None:
    references = build(["sound", "crack", "sound"])
    chosen = references.subset(np.asarray(references.labels) == "sound")
    assert list(chosen) == [references[0], references[2]]


@given(labellings)
def test_classes_put_the_authentic_one_first_and_sort_the_others(labels: list[str]) -> None:
    references = build(labels)
    assert references.classes[0] == references.authentic == "sound"
    assert list(references.classes[1:]) == sorted(set(labels) - {"sound"})
    assert references.labels == tuple(labels)
    assert references.groups == tuple(reference.group for reference in references)
    assert sum(references.counts.values()) == len(references) == len(list(references))
    assert list(references.counts) == list(references.classes)


def test_authentic_references_alone_are_a_set() -> None:
    references = build(["sound", "sound"])
    assert references.classes == ("sound",)
    assert build(["sound"]).counts == {"sound": 1}


def test_the_digest_covers_labels_groups_pixels_pixel_size_marks_and_order() -> None:
    plain = {"micrographs": PICTURES[:3], "labels": ["sound", "crack", "crack"], "groups": ["a", "a", "b"]}

    def digest(authentic: str = "sound", **changes: object) -> str:
        return ReferenceSet.from_micrographs(**(plain | changes), authentic=authentic).sha256  # type: ignore[arg-type]

    corner = np.zeros((32, 34), dtype=bool)
    corner[0, 0] = True
    digests = [
        digest(),
        digest(authentic="crack"),
        digest(labels=["sound", "crack", "blowhole"]),
        digest(groups=["a", "b", "b"]),
        digest(micrographs=[*PICTURES[:2], PICTURES[4]]),
        digest(micrographs=[PICTURES[1], PICTURES[0], PICTURES[2]]),
        digest(micrographs=[*PICTURES[:2], picture(2, pixel_size_um=0.5)]),
        digest(micrographs=[*PICTURES[:2], Micrograph.from_array(PICTURES[2].pixels.reshape(34, 32))]),
        digest(micrographs=[*PICTURES[:2], Micrograph.from_array(PICTURES[2].pixels.view(np.int32))]),
        digest(marks=[None, FLAW, None]),
        digest(marks=[None, corner, None]),
        digest(marks=[None, None, FLAW]),
    ]
    assert len(set(digests)) == len(digests)
    assert all(len(value) == 64 for value in digests)
    assert digest() == digests[0]
    assert digest(names=["x", "y", "z"]) == digests[0]
    assert digest(marks=[None, FLAW * 7.0, None]) == digests[9]


def test_a_set_and_its_members_cannot_be_changed() -> None:
    references = build(["sound", "crack"], marks=[None, FLAW])
    with pytest.raises(dataclasses.FrozenInstanceError):
        references.authentic = "crack"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        references[0].label = "crack"  # type: ignore[misc]
    mark = references[1].mark
    assert mark is not None
    with pytest.raises(ValueError, match="read-only"):
        mark[0, 0] = False
    references.counts["sound"] = 100
    assert references.counts["sound"] == 1


def test_a_mark_is_a_copy_that_is_true_where_the_array_is_not_zero() -> None:
    drawn = FLAW * 3
    references = build(["sound", "crack"], marks=[None, drawn])
    drawn[:] = 0
    assert references[1].mark is not None
    assert references[1].mark.dtype == np.bool_
    np.testing.assert_array_equal(references[1].mark, FLAW.astype(bool))


@pytest.mark.parametrize(
    ("mark", "complaint"),
    [
        (np.ones((32, 35)), "32x35.*32x34"),
        (np.ones((32, 34, 1)), "2-D"),
        (np.full((32, 34), np.nan), "contains NaN or infinite values"),
        (np.full((32, 34), "x"), "2-D array of numbers"),
    ],
)
def test_a_mark_that_does_not_fit_is_refused(mark: np.ndarray, complaint: str) -> None:
    with pytest.raises(ReferenceSetError, match=complaint):
        build(["sound", "crack"], marks=[None, mark])
    with pytest.raises(ReferenceSetError, match=complaint):
        Reference(PICTURES[0], "crack", "g", "n", mark)


def test_classes_that_are_no_words_are_told_what_to_be() -> None:
    with pytest.raises(
        ReferenceSetError, match=r"one of the classes \(0, 1\), not 0: give labels and authentic as strings"
    ):
        build([0, 0, 1], authentic=0)  # type: ignore[list-item, arg-type]


def test_a_reference_is_shown_without_the_values_of_its_mark() -> None:
    reference = build(["sound", "crack"], marks=[None, FLAW])[1]
    assert "\n" not in repr(reference)
    assert "False" not in repr(reference)


def test_an_authentic_reference_cannot_have_a_flaw_but_may_have_an_empty_mark() -> None:
    with pytest.raises(ReferenceSetError, match="authentic"):
        build(["sound", "crack"], marks=[FLAW, None])
    with pytest.raises(ReferenceSetError, match="authentic"):
        ReferenceSet((Reference(PICTURES[0], "sound", "g", "n", FLAW.astype(bool)),), "sound")
    assert build(["sound", "crack"], marks=[FLAW * 0, None])[0].mark is None


def test_an_empty_mark_on_a_flaw_counts_as_unmarked_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="empty"):
        references = build(["sound", "crack"], marks=[None, FLAW * 0])
    assert references[1].mark is None


def test_a_missing_authentic_class_is_answered_with_the_classes_there_are() -> None:
    with pytest.raises(ReferenceSetError, match=r"did you mean 'sound'.*crack, sound"):
        build(["sound", "crack"], authentic="Sound")
    with pytest.raises(ReferenceSetError, match="crack, sound"):
        build(["sound", "crack"], authentic="")


def test_empty_and_uneven_input_is_refused() -> None:
    with pytest.raises(ReferenceSetError, match="at least one"):
        build([])
    with pytest.raises(ReferenceSetError, match="at least one"):
        ReferenceSet((), "sound")
    with pytest.raises(ReferenceSetError, match="2 micrographs but 1 groups"):
        build(["sound", "crack"], groups=["a"])
    with pytest.raises(ReferenceSetError, match="from_array"):
        ReferenceSet.from_micrographs([np.zeros((4, 4))], ["sound"], authentic="sound")  # type: ignore[list-item]
    with pytest.raises(ReferenceSetError, match="from_micrographs"):
        ReferenceSet((PICTURES[0],), "sound")  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["label", "group", "name"])
def test_label_group_and_name_must_be_words(field: str) -> None:
    words = {"label": "sound", "group": "g", "name": "n"}
    for value in ("", "  ", 3, None):
        with pytest.raises(ReferenceSetError, match=field):
            Reference(PICTURES[0], **(words | {field: value}))  # type: ignore[arg-type]


def test_one_name_for_two_references_is_refused() -> None:
    with pytest.raises(ReferenceSetError, match="two references are named 'n'"):
        build(["sound", "crack"], names=["n", "n"])


def test_without_groups_every_reference_is_its_own() -> None:
    references = build(["sound", "crack", "sound"])
    assert len(references.specimens) == 3
    assert build(["sound", "crack", "sound"], groups=["p2", "p1", "p2"]).specimens == ("p1", "p2")


def test_the_same_image_under_two_labels_is_refused_and_named() -> None:
    with pytest.raises(ReferenceSetError, match=r"a .*'sound'.* b .*'crack'"):
        ReferenceSet.from_micrographs(
            [PICTURES[0], PICTURES[0]], ["sound", "crack"], authentic="sound", names=["a", "b"]
        )


def test_sets_that_are_joined_keep_one_of_each_image_and_its_mark() -> None:
    mark = np.eye(PICTURES[0].height, PICTURES[0].width, dtype=bool)
    labels = ["sound", "crack"]
    first, second = (
        ReferenceSet.from_micrographs(images, labels, authentic="sound", names=names, marks=marks)
        for images, names, marks in (
            ([PICTURES[0], PICTURES[1]], ["mon/0", "mon/1"], None),
            ([PICTURES[2], PICTURES[1]], ["tue/0", "tue/1"], [None, mark]),
        )
    )
    with pytest.warns(UserWarning, match="tue/1 is a copy of mon/1; mon/1 is left out of the set"):
        both = ReferenceSet((*first, *second), authentic="sound")
    assert [each.name for each in both] == ["mon/0", "tue/1", "tue/0"]
    assert ReferenceSet(tuple(both), authentic="sound").sha256 == both.sha256


def test_paths_and_numbers_in_place_of_what_is_needed_are_told_with_a_cure() -> None:
    with pytest.raises(ReferenceSetError, match=r"contains a str, .*load_microstructure_data\(path\)"):
        ReferenceSet.from_micrographs(["a.tif"], ["sound"], authentic="sound")  # type: ignore[list-item]
    with pytest.raises(ReferenceSetError, match=r"the group of reference .* not 6: convert numbers with str"):
        build(["sound"], groups=[6])  # type: ignore[list-item]


def test_one_image_is_told_from_others_by_its_pixels_whatever_the_file(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 2**16, (40, 50), dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", levels, byteorder=">")
    Image.fromarray(levels[::-1].copy()).save(tmp_path / "b.png")
    forms = [load_microstructure_data(tmp_path / name) for name in ("a.png", "a.tif")]
    forms += [Micrograph.from_array(levels), Micrograph.from_array(levels.astype(np.float32))]
    other = load_microstructure_data(tmp_path / "b.png")
    assert len({form.sha256 for form in forms}) == 4
    for form in forms[1:]:
        images = [other, forms[0], form]
        with pytest.raises(ReferenceSetError, match="are the same image with different labels"):
            ReferenceSet.from_micrographs(images, ["sound", "sound", "crack"], authentic="sound")
        with pytest.warns(UserWarning, match="is a copy of"):
            once = ReferenceSet.from_micrographs(images, ["crack", "sound", "sound"], authentic="sound")
        assert once.counts == {"sound": 1, "crack": 1}


def test_an_image_is_the_same_in_colour_and_in_other_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion_diff.micrograph.storage.BAND_PIXELS", 500)  # several bands
    levels = np.random.default_rng(0).integers(0, 256, (150, 90), dtype=np.uint8)
    tinted = np.stack([levels] * 3, axis=2)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    Image.fromarray(tinted).save(tmp_path / "colour.png")
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    same = [load_microstructure_data(tmp_path / f"{name}.png") for name in ("grey", "colour", "deep")]
    tinted[149, 89, 2] ^= 1
    deep = levels.astype(np.uint16) * 257
    deep[149, 89] ^= 1
    others = [Micrograph.from_array(each) for each in (tinted, deep, levels.T, 255 - levels)]
    assert alike([*others, *same]) == [[4, 5, 6]]


def test_images_that_differ_in_one_pixel_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion_diff.micrograph.storage.BAND_PIXELS", 500)  # several bands
    levels = np.random.default_rng(0).integers(0, 256, (150, 90), dtype=np.uint8)
    for row, column in ((149, 89), (77, 1), (0, 0)):
        changed = levels.copy()
        changed[row, column] ^= 1
        images = [Micrograph.from_array(each) for each in (levels, changed, levels.T, levels)]
        assert alike(images) == [[0, 3]]


def test_a_set_made_of_references_refuses_two_labels_too_and_names_every_such_image() -> None:
    members = [
        Reference(PICTURES[place], label, "g", f"{label}/{place}")
        for label in ("sound", "crack", "hole")
        for place in ((0, 1, 2) if label != "hole" else (2,))
    ]
    with pytest.raises(ReferenceSetError, match="3 images have different labels") as caught:
        ReferenceSet(tuple(members), "sound")
    assert str(caught.value).splitlines()[1:] == [
        "  sound/0 ('sound') and crack/0 ('crack')",
        "  sound/1 ('sound') and crack/1 ('crack')",
        "  sound/2 ('sound') and crack/2 ('crack') and hole/2 ('hole')",
    ]
    allowed = ReferenceSet(tuple(members), "sound", allow_conflicts=True)
    assert allowed.subset([0, 3]).counts == {"sound": 1, "crack": 1}
    assert allowed.shots(1).counts == {"sound": 1, "crack": 1, "hole": 1}


def test_looking_for_copies_reads_whole_images_only_where_they_may_be_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    window = Micrograph.window

    def counted(self: Micrograph, *place: int) -> np.ndarray:
        read.append(self.name)
        return window(self, *place)

    monkeypatch.setattr(Micrograph, "window", counted)
    images = [Micrograph.from_array(each.pixels, name=str(index)) for index, each in enumerate(PICTURES)]
    assert alike([*images, images[3]]) == [[3, len(images)]]
    assert set(read) == {"3"}


def test_a_copy_within_a_class_is_kept_once_and_keeps_the_mark() -> None:
    with pytest.warns(UserWarning, match="copy"):
        references = ReferenceSet.from_micrographs(
            [PICTURES[0], PICTURES[1], PICTURES[1]],
            ["sound", "crack", "crack"],
            authentic="sound",
            marks=[None, None, FLAW],
        )
    assert references.counts == {"sound": 1, "crack": 1}
    assert references[1].mark is not None


class Series:
    """Values under labels, as a pandas Series has them after sorting or filtering."""

    def __init__(self, values: list[object], index: list[object]) -> None:
        self._values, self._places = values, dict(zip(index, values, strict=True))

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[object]:
        return iter(self._values)

    def __getitem__(self, label: object) -> object:
        return self._places[label]


@pytest.mark.parametrize("index", [[2, 0, 1], ["x", "y", "z"]])
def test_values_belong_to_micrographs_by_their_order_alone(index: list[object]) -> None:
    given = {
        "micrographs": PICTURES[:3],
        "labels": ["sound", "crack", "crack"],
        "groups": ["a", "b", "c"],
        "marks": [None, FLAW, FLAW[::-1]],
        "names": ["n0", "n1", "n2"],
    }
    expected = ReferenceSet.from_micrographs(**given, authentic="sound")  # type: ignore[arg-type]
    for form in (lambda values: Series(values, index), iter, np.array, tuple):
        values = {what: form(each) if what != "marks" or form is not np.array else each for what, each in given.items()}
        found = ReferenceSet.from_micrographs(**values, authentic="sound")
        assert [r.name for r in found] == ["n0", "n1", "n2"]
        assert (found.labels, found.groups) == (expected.labels, expected.groups)
        assert found.sha256 == expected.sha256


def test_words_of_numpy_are_shown_as_words() -> None:
    words = np.array(["sound", "crack"])
    references = build(words, groups=words, names=words, authentic=words[0])  # type: ignore[arg-type]
    assert "np.str_" not in repr(references) + repr(references[0])
    with pytest.raises(ReferenceSetError, match="has no class 'hole'"):
        build(words, authentic=np.str_("hole"))  # type: ignore[arg-type]


def test_what_has_no_value_per_micrograph_is_refused() -> None:
    for wrong in (
        {"groups": "ab"},
        {"groups": {"a": 1, "b": 1}},
        {"labels": {"sound", "crack"}},
        {"names": 3},
        {"micrographs": PICTURES[0]},
        {"labels": None},
    ):
        arguments = {"micrographs": PICTURES[:2], "labels": ["sound", "crack"], **wrong}
        with pytest.raises(ReferenceSetError, match=f"{next(iter(wrong))} must have one value per micrograph"):
            ReferenceSet.from_micrographs(**arguments, authentic="sound")  # type: ignore[arg-type]


def test_a_mark_cannot_be_changed_after_copying_either() -> None:
    reference = build(["sound", "crack"], marks=[None, FLAW])[1]
    for other in (pickle.loads(pickle.dumps(reference)), copy.deepcopy(reference)):
        with pytest.raises(ValueError, match="read-only"):
            other.mark[0, 0] = False


def test_pages_of_one_file_are_different_images(tmp_path: Path) -> None:
    pages = [Image.fromarray(page.pixels) for page in PICTURES[:2]]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    stack = [load_microstructure_data(tmp_path / "stack.tif", page=page) for page in (0, 1)]
    assert stack[0].sha256 == stack[1].sha256
    references = ReferenceSet.from_micrographs(stack, ["sound", "crack"], authentic="sound")
    assert [reference.name for reference in references] == ["sound/stack.tif", "crack/stack.tif"]
    together = ReferenceSet.from_micrographs(stack, ["sound", "sound"], authentic="sound")
    assert [reference.name for reference in together] == ["sound/stack.tif", "sound/stack.tif#1"]
    assert together.specimens == ("sound/stack.tif",), "they show one specimen"
    (tmp_path / "below").mkdir()
    spelt = load_microstructure_data(tmp_path / "below" / ".." / "stack.tif", page=0)
    assert spelt.source != stack[1].source
    spelt_apart = ReferenceSet.from_micrographs([spelt, stack[1]], ["sound", "sound"], authentic="sound")
    assert len(spelt_apart.specimens) == 1, "however the path is spelt"
    apart = ReferenceSet.from_micrographs(stack, ["sound", "sound"], authentic="sound", groups=["a", "b"])
    assert apart.specimens == ("a", "b")
    alone = [ReferenceSet.from_micrographs([page], ["sound"], authentic="sound") for page in stack]
    assert alone[0].sha256 != alone[1].sha256


def test_more_references_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_REFERENCES == 5000
    monkeypatch.setattr("fusion_diff.references.reference.MAX_REFERENCES", 3)
    with pytest.raises(ReferenceSetError, match="4 references, more than 3"):
        build(["sound"] * 4)
    assert len(build(["sound"] * 3)) == 3


def test_a_reference_is_had_by_its_number_alone() -> None:
    references = build(["sound", "crack"])
    assert references[-1] is references.references[1]
    assert references[np.int64(0)] is references.references[0]  # type: ignore[index]
    for index in (slice(0, 1), "sound", 0.5, True):
        with pytest.raises(ReferenceSetError, match="subset"):
            references[index]  # type: ignore[index]
    with pytest.raises(IndexError):
        references[2]


def test_the_representation_tells_the_counts() -> None:
    assert repr(build(["sound", "crack", "sound"])) == ("ReferenceSet(sound: 2, crack: 1; authentic='sound', 3 groups)")


def test_labels_that_differ_only_in_case_are_refused() -> None:
    with pytest.raises(ReferenceSetError, match=r"'Sound' and 'sound', which differ only .*use one spelling"):
        build(["sound", "Sound"])
    with pytest.raises(ReferenceSetError, match="'CRACK' and 'crack'"):
        build(["sound", "crack", "CRACK"])
    with pytest.raises(ReferenceSetError, match="'sound' and 'sound ', which differ only in case or in blanks"):
        build(["sound", "sound ", "crack"])


def test_labels_and_groups_are_one_in_every_unicode_form() -> None:
    both = [unicodedata.normalize(form, "Größe") for form in ("NFC", "NFD")]
    references = build([*both, "crack"], authentic=both[1], groups=[*both, "g"])
    assert (references.authentic, references.counts) == (both[0], {both[0]: 2, "crack": 1})
    assert references.specimens == (both[0], "g")


def test_groups_that_differ_only_in_case_are_warned_of() -> None:
    for one, other in (("A12", "a12"), ("A12", "A12\t")):
        with pytest.warns(UserWarning, match=re.escape(f"the groups {one!r} and {other!r} differ only in case or in")):
            assert build(["sound", "crack"], groups=[other, one]).specimens == (one, other)


def test_names_are_alike_if_only_the_case_or_the_unicode_form_of_letters_differs() -> None:
    composed, decomposed = (unicodedata.normalize(form, "größe") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert alike_in_letters([composed, decomposed]) == [(decomposed, composed)]
    assert alike_in_letters(["Sound", "sound", "crack"]) == [("Sound", "sound")]
    assert alike_in_letters(["Masse", "Maße", "sound", "ground"]) == []
