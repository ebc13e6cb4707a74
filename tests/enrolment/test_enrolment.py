"""Enrolments: shots, nearest references, figures, and files."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fusion_diff.enrolment import Enrolment
from fusion_diff.enrolment.doubts import doubts
from fusion_diff.enrolment.files import load_enrolment, save_enrolment
from fusion_diff.errors import CheckpointError, EnrolmentError, ReferenceSetError
from fusion_diff.fewshot.bags import Bag
from fusion_diff.fewshot.decision import Calibration
from fusion_diff.fewshot.keypoints import Keypoints
from fusion_diff.fewshot.verifier import Verifier
from fusion_diff.verdict.compared import BUILTIN
from fusion_diff.verdict.result import NEAREST

CHANNELS = 8
PATHS = (3, CHANNELS - 3)
ENCODER = SimpleNamespace(paths=PATHS, condition_tokens=1, condition_width=4)


def bag(seed: int, channel: int | None = None, *, marked: bool = False, residuals: int = 2) -> Bag:
    """Tokens, fifteen of them moved along a channel."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(120, CHANNELS, generator=generator)
    mark = torch.arange(120) < 15
    if channel is not None:
        tokens[mark, channel] += 6
    return Bag(
        tokens.half().float(), torch.rand(120, residuals, generator=generator).half().float(), mark if marked else None
    )


def enrolment_of(
    counts: dict[str, int],
    *,
    marked: bool = False,
    residuals: int = 2,
    surfaces: list[int] | None = None,
    images: int = 1,
    difference: str = "any",
) -> Enrolment:
    """The first label is authentic. `surfaces`: the surface of each reference; `images`: images per specimen."""
    labels = tuple(label for label, count in counts.items() for _ in range(count))
    groups = tuple(f"specimen {index // images}" for index in range(len(labels)))
    authentic, *others = counts
    channels = {label: index for index, label in enumerate(others)}
    bags = [
        bag(index, channels.get(label), marked=marked and label in channels, residuals=residuals)
        for index, label in enumerate(labels)
    ]
    if surfaces is not None:
        bags = [replace(each, keypoints=surface(seed)) for each, seed in zip(bags, surfaces, strict=True)]
    return Enrolment(
        authentic=authentic,
        names=tuple(f"{label}/{index}.tif" for index, label in enumerate(labels)),
        labels=labels,
        groups=groups,
        paths=PATHS,
        bags=tuple(bags),
        condition=torch.ones(1, 4),
        references_sha256="ab" * 32,
        verifier=Verifier.fit(bags, labels, authentic, groups, PATHS, difference=difference),
        difference=difference,
        pixel_sizes_um=(None,) * len(labels),
    )


def surface(seed: int) -> Keypoints:
    """Return random keypoints."""
    rng = np.random.default_rng(seed)
    return Keypoints(rng.uniform(0, 300, (60, 2)).astype(np.float32), rng.integers(0, 99, (60, 128)).astype(np.uint8))


def test_counts_name_the_authentic_class_first():
    assert list(enrolment_of({"sound": 2, "crack": 3, "blowhole": 1}).counts.items()) == [
        ("sound", 2),
        ("blowhole", 1),
        ("crack", 3),
    ]


def test_what_is_said_to_differ_is_stored_and_holds_for_fewer_shots(tmp_path):
    enrolment = enrolment_of({"sound": 4, "crack": 4}, difference="whole")
    save_enrolment(enrolment, tmp_path)
    loaded = load_enrolment(tmp_path, ENCODER)
    assert loaded.difference == "whole"
    for each in (loaded, loaded.shots(3)):
        assert each.figures["weight of pooled"] == pytest.approx(0.8)
    described = json.loads((tmp_path / "enrolment.json").read_text()) | {"difference": "half"}
    (tmp_path / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="must be 'any' or 'whole', not 'half'"):
        load_enrolment(tmp_path, ENCODER)


@pytest.mark.parametrize(
    ("difference", "cure"), [("any", "whole material differs"), ("whole", "flaws that have a place are sought")]
)
def test_little_skill_asks_whether_the_other_difference_is_meant(difference, cure):
    told = doubts({"authentic": 5, "not authentic": 5}, 0.5, 0, difference)
    assert len(told) == 1
    assert cure in told[0]


def test_figures_tell_how_well_unseen_references_were_judged():
    figures = enrolment_of({"sound": 6, "crack": 6}).figures
    assert figures["auroc"] > 0.9
    assert figures["macro_f1"] > 0.8
    weights = [value for name, value in figures.items() if name.startswith("weight of ")]
    assert sum(weights) == pytest.approx(1)


def test_figures_that_cannot_be_had_are_left_out():
    for counts in ({"sound": 5}, {"sound": 1, "crack": 3}):
        assert {"auroc", "macro_f1"}.isdisjoint(enrolment_of(counts).figures)


def test_shots_keep_the_first_of_each_class():
    enrolment = enrolment_of({"sound": 4, "crack": 3, "pore": 1})
    fewer = enrolment.shots(2)
    assert fewer.names == ("sound/0.tif", "sound/1.tif", "crack/4.tif", "crack/5.tif", "pore/7.tif")
    assert fewer.groups == ("specimen 0", "specimen 1", "specimen 4", "specimen 5", "specimen 7")
    assert fewer.bags == tuple(enrolment.bags[index] for index in (0, 1, 4, 5, 7))
    assert fewer.verifier is not enrolment.verifier
    assert fewer is enrolment.shots(2)
    assert fewer.references_sha256 == replace(enrolment).shots(2).references_sha256
    assert len({each.references_sha256 for each in (enrolment, fewer, enrolment.shots(1))}) == 3
    assert len(fewer.references_sha256) == 64
    assert fewer.seconds > 0


def test_shots_take_the_specimens_of_a_class_in_turn():
    enrolment = replace(enrolment_of({"sound": 6, "crack": 2}), groups=("a", "a", "a", "b", "b", "c", "d", "d"))
    assert enrolment.shots(3).groups == ("a", "b", "c", "d", "d")
    assert enrolment.shots(4).names == tuple(enrolment.names[index] for index in (0, 1, 3, 5, 6, 7))


def test_shots_that_leave_nothing_out_change_nothing():
    enrolment = enrolment_of({"sound": 3, "crack": 2})
    assert enrolment.shots(3) is enrolment


@pytest.mark.parametrize("shots", [0, -1, 1.0, "2", True, None])
def test_shots_are_a_whole_number_from_one(shots):
    with pytest.raises(ReferenceSetError, match="shots must be a whole number"):
        enrolment_of({"sound": 2, "crack": 2}).shots(shots)


def test_more_shots_than_any_class_has_are_all_with_a_warning():
    enrolment = enrolment_of({"sound": 3, "crack": 2})
    with pytest.warns(UserWarning, match="shots is 4, but no class has more than 3 references enrolled; all are used"):
        assert enrolment.shots(4) is enrolment


def test_one_shot_of_authentic_references_alone_says_what_is_missing():
    with pytest.raises(EnrolmentError, match="one authentic reference alone is not enough"):
        enrolment_of({"sound": 3}).shots(1)


def test_names_stand_for_groups_in_either_form_of_unicode():
    """Reference names keep the form of the file system, which decomposes on a Mac; groups are composed."""
    names = (*(f"sound/{letter}.tif" for letter in "abc"), "sound/O\u0308fen.tif", "crack/a.tif", "crack/b.tif")
    groups = tuple(unicodedata.normalize("NFC", name) for name in names)
    enrolment = replace(enrolment_of({"sound": 4, "crack": 2}), names=names, groups=groups)
    assert any("no groups are given" in line for line in enrolment.warnings())
    assert not any("no groups are given" in line for line in replace(enrolment, groups=names[::-1]).warnings())


def test_warnings_say_how_many_references_decisions_need():
    few = enrolment_of({"sound": 4, "crack": 3})
    assert len(few.warnings(alpha=0.1)) == 2
    assert "4 authentic references are too few" in few.warnings(alpha=0.1)[0]
    assert "enrol at least 9, or use an alpha of 0.2 or more" in few.warnings(alpha=0.1)[0]
    assert "an alpha of 0.25 or more" in few.warnings(alpha=0.1)[1]
    assert "3 other references are too few" in few.warnings(alpha=0.1)[1]
    assert few.warnings(alpha=0.25) == ()
    assert len(enrolment_of({"sound": 5}).warnings(alpha=0.1)) == 1
    uncalibrated = enrolment_of({"sound": 1, "crack": 1}).warnings(alpha=0.1)
    assert "every decision is inconclusive" in uncalibrated[0]
    assert not any("use an alpha" in line for line in uncalibrated)  # no alpha would do


def test_the_crossfitted_log_odds_are_those_of_each_reference_whatever_their_order():
    enrolment = enrolment_of({"sound": 3, "crack": 4})
    odds, verifier = enrolment.crossfitted, enrolment.verifier
    assert tuple(odds) == enrolment.names
    sound = [odds[name] for name, label in zip(enrolment.names, enrolment.labels, strict=True) if label == "sound"]
    assert sound == verifier.calibration.log_odds(verifier.inside).tolist()
    mixed = replace(enrolment, names=enrolment.names[::-1], labels=enrolment.labels[::-1])
    assert [mixed.crossfitted[name] for name in mixed.names[:4]] == [
        odds[name] for name in enrolment.names[3:]
    ]  # the others' scores are in the order of the others
    assert enrolment_of({"sound": 1, "crack": 1}).crossfitted == {}


def test_warnings_say_where_each_image_counts_as_a_specimen():
    named = enrolment_of({"sound": 4, "crack": 4})
    nobody_said = replace(named, groups=named.names)
    assert not any("specimen of its own" in line for line in named.warnings())
    assert any("each image counts as a specimen of its own: if several" in line for line in nobody_said.warnings())
    assert replace(nobody_said, builtin=True).warnings() == named.warnings()


def test_images_of_a_specimen_count_once_in_what_decisions_need(tmp_path):
    enrolment = enrolment_of({"sound": 8, "crack": 12}, images=2)
    lines = enrolment.warnings(alpha=0.15)
    assert [line.split(" are too few")[0] for line in lines] == ["4 specimens of authentic references"]
    assert "enrol at least 6" in lines[0]
    assert enrolment.verifier.p_values(1e6)["authentic"] == pytest.approx(1 / 5)
    save_enrolment(enrolment, tmp_path)
    loaded = load_enrolment(tmp_path, ENCODER)
    for fused in (-1.0, 0.3, 2.0):
        assert loaded.verifier.p_values(fused) == enrolment.verifier.p_values(fused)
        assert enrolment.to(torch.device("meta")).verifier.p_values(fused) == enrolment.verifier.p_values(fused)


def test_a_verifier_that_hardly_tells_the_sides_apart_says_so():
    enrolment = enrolment_of({"sound": 6, "crack": 6})
    assert not any("little better than chance" in line for line in enrolment.warnings())
    blind = replace(enrolment.verifier, inside=np.arange(6.0), outside=np.arange(6.0) + 0.5)
    lines = replace(enrolment, verifier=blind).warnings()
    assert any("little better than chance (cross-fitted AUROC 0.583" in line for line in lines)


def test_verdicts_carry_the_doubts_about_their_references():
    enrolment = enrolment_of({"sound": 6, "crack": 6})
    assert enrolment.compared.doubts == ()
    blind = replace(enrolment.verifier, inside=np.arange(6.0), outside=np.arange(6.0) + 0.5)
    builtin, skill = replace(enrolment, verifier=blind, builtin=True).compared.doubts
    assert builtin == BUILTIN
    assert skill in replace(enrolment, verifier=blind).warnings()


def test_verdicts_carry_that_nobody_said_which_images_show_one_specimen():
    named = enrolment_of({"sound": 6, "crack": 6}, images=2)
    assert named.compared.doubts == ()
    assert named.compared.of_specimens == "of 6 specimens"
    nobody_said = replace(named, groups=named.names)
    (doubt,) = nobody_said.compared.doubts
    assert doubt.startswith("no groups are given, so each image counts as a specimen of its own")
    assert nobody_said.shots(4).compared.doubts == (doubt,)
    assert nobody_said.compared.of_specimens == "each counted as a specimen"


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 2, float("nan")])
def test_warnings_are_for_an_error_rate_between_0_and_1(alpha):
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
        enrolment_of({"sound": 4}).warnings(alpha)


def test_what_was_learned_stays_when_something_else_is_replaced():
    enrolment = enrolment_of({"sound": 4, "crack": 4})
    assert replace(enrolment, seconds=1.0).verifier is enrolment.verifier


def test_each_path_is_learned_by_itself():
    verifier = enrolment_of({"sound": 4, "crack": 4}).verifier
    assert [w.shape[1] - 1 for w in verifier.heads.heads["multiple-instance"].weights] == [3, CHANNELS - 3]
    assert verifier.scope.bank.shape[1] == CHANNELS - 3


def test_shots_know_the_same_paths():
    enrolment = enrolment_of({"sound": 4, "crack": 4})
    assert enrolment.shots(2).paths == enrolment.paths


def test_a_reference_is_its_own_nearest_reference():
    enrolment = enrolment_of({"sound": 4, "crack": 4})
    tokens = enrolment.verifier.heads.scale(enrolment.bags[5].tokens).mean(0)
    nearest = enrolment.nearest(tokens)
    assert [reference.name for reference in nearest][:1] == ["crack/5.tif"]
    assert nearest[0].similarity == pytest.approx(1, abs=1e-5)
    assert nearest[0].label == "crack"
    similarities = [reference.similarity for reference in nearest]
    assert len(similarities) == NEAREST
    assert similarities == sorted(similarities, reverse=True)
    assert all(-1.0001 <= value <= 1.0001 for value in similarities)


@pytest.mark.parametrize("counts", [{"sound": 4, "crack": 4}, {"sound": 3}, {"sound": 1, "crack": 1, "pore": 2}])
@pytest.mark.parametrize("marked", [False, True])
def test_what_is_saved_and_loaded_gives_the_same_verdicts(tmp_path, counts, marked):
    enrolment = enrolment_of(counts, marked=marked)
    sizes = (None, *(0.1 * count for count in range(1, len(enrolment.names))))
    pages = (None, *range(len(enrolment.names) - 1))
    digests = tuple(f"{index:064x}" for index in range(len(enrolment.names)))
    enlargements = (1.0, *(1.25 * count for count in range(1, len(enrolment.names))))
    enrolment = replace(
        enrolment,
        builtin=True,
        pixel_sizes_um=sizes,
        pages=pages,
        digests=digests if marked else (),
        dropped=3,
        enlargements=enlargements,
    )
    save_enrolment(enrolment, tmp_path)
    loaded = load_enrolment(tmp_path, ENCODER)
    fields = ("authentic", "names", "labels", "groups", "paths", "references_sha256", "builtin")
    for field in (*fields, "pixel_sizes_um", "pages", "digests", "dropped", "enlargements"):
        assert getattr(loaded, field) == getattr(enrolment, field)
    assert torch.equal(loaded.condition, enrolment.condition)
    for ours, theirs in zip(loaded.bags, enrolment.bags, strict=True):
        assert torch.equal(ours.tokens, theirs.tokens)
        assert torch.equal(ours.residual, theirs.residual)
        assert (ours.mark is None) == (theirs.mark is None)
        assert ours.mark is None or torch.equal(ours.mark, theirs.mark)
    unseen = bag(999, 0)
    first, second = (
        e.verifier.fused(e.verifier.heads.maps(unseen.tokens, unseen.residual)) for e in (enrolment, loaded)
    )
    assert first == second
    np.testing.assert_array_equal(loaded.verifier.inside, enrolment.verifier.inside)


def test_a_folder_without_an_enrolment_has_none(tmp_path):
    assert load_enrolment(tmp_path, ENCODER) is None


@pytest.fixture
def saved(tmp_path):
    save_enrolment(enrolment_of({"sound": 2, "crack": 2}, marked=True), tmp_path)
    return tmp_path


@pytest.mark.parametrize("number", [1, 9])
def test_another_format_is_refused(saved, number):
    described = json.loads((saved / "enrolment.json").read_text()) | {"format": f"fusion-diff/enrolment/{number}"}
    (saved / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="this version reads 'fusion-diff/enrolment/7'"):
        load_enrolment(saved, ENCODER)


@pytest.mark.parametrize("field", ["authentic", "paths", "references", "references_sha256", "builtin"])
def test_a_missing_field_is_named(saved, field):
    described = json.loads((saved / "enrolment.json").read_text())
    del described[field]
    (saved / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match=field):
        load_enrolment(saved, ENCODER)


@pytest.mark.parametrize(
    "paths", [[], [CHANNELS - 1], [3, CHANNELS - 2], [CHANNELS, 0], [-1, CHANNELS + 1], 7, None, ["a", "b"], [1e999, 1]]
)
def test_paths_that_are_not_those_of_the_tokens_are_refused(saved, paths):
    described = json.loads((saved / "enrolment.json").read_text()) | {"paths": paths}
    (saved / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="its enrolment"):
        load_enrolment(saved, ENCODER)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("paths", (CHANNELS - 3, 3), "its tokens have"),
        ("condition_tokens", 2, "its condition has shape"),
        ("condition_width", 5, "its condition has shape"),
    ],
)
def test_what_was_learned_with_another_encoder_is_refused(saved, field, value, said):
    other = SimpleNamespace(**vars(ENCODER) | {field: value})
    with pytest.raises(CheckpointError, match=f"is inconsistent .{said}"):
        load_enrolment(saved, other)


def test_residuals_of_another_width_are_refused(tmp_path):
    save_enrolment(enrolment_of({"sound": 2, "crack": 2}, residuals=3), tmp_path)
    with pytest.raises(CheckpointError, match="its residuals have 3 channels, but the diffusion path's have 2"):
        load_enrolment(tmp_path, ENCODER)


@pytest.mark.parametrize("references", [7, "ab", [1, 2], [{"name": "a"}], {}, None])
def test_references_of_another_form_are_refused(saved, references):
    described = json.loads((saved / "enrolment.json").read_text()) | {"references": references}
    (saved / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="its enrolment"):
        load_enrolment(saved, ENCODER)


@pytest.mark.parametrize("name", ["tokens.1", "residual.0", "condition"])
def test_a_missing_tensor_is_named(saved, name):
    tensors = load_file(saved / "enrolment.safetensors")
    del tensors[name]
    save_file(tensors, saved / "enrolment.safetensors")
    with pytest.raises(CheckpointError, match=name):
        load_enrolment(saved, ENCODER)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens.1", torch.randn(120)),
        ("tokens.1", torch.randn(120, CHANNELS + 1)),
        ("tokens.0", torch.randn(120, CHANNELS + 1)),
        ("tokens.1", torch.randn(119, CHANNELS)),
        ("tokens.1", torch.full((120, CHANNELS), torch.nan)),
        ("residual.1", torch.zeros(120)),
        ("residual.1", torch.zeros(120, 1)),
        ("residual.2", torch.full((120, 2), torch.inf)),
        ("mark.2", torch.ones(119, dtype=torch.bool)),
        ("mark.2", torch.ones(120)),
        ("condition", torch.zeros(4)),
    ],
)
def test_tensors_that_do_not_fit_each_other_are_refused(saved, name, value):
    tensors = load_file(saved / "enrolment.safetensors")
    tensors[name] = value
    save_file(tensors, saved / "enrolment.safetensors")
    with pytest.raises(CheckpointError, match="is inconsistent"):
        load_enrolment(saved, ENCODER)


@pytest.mark.parametrize("shifts", [[0.1] * 3, [0.1] * 5, [0.1, 0.1, 0.1, float("nan")]])
def test_shifts_that_are_not_one_finite_number_per_reference_are_refused(saved, shifts):
    described = json.loads((saved / "enrolment.json").read_text()) | {"shifts": shifts}
    (saved / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="does not have one finite shift per reference"):
        load_enrolment(saved, ENCODER)


@pytest.mark.parametrize("enlarged", [0.5, -2.0, float("nan"), float("inf")])
def test_an_enlargement_that_is_no_finite_number_from_one_is_refused(saved, enlarged):
    described = json.loads((saved / "enrolment.json").read_text())
    described["references"][0]["enlarged"] = enlarged
    (saved / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="not enlarged by a finite number of 1 or more"):
        load_enrolment(saved, ENCODER)


def test_an_authentic_class_that_no_reference_has_is_refused(saved):
    described = json.loads((saved / "enrolment.json").read_text()) | {"authentic": "genuine"}
    (saved / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="authentic class 'genuine'"):
        load_enrolment(saved, ENCODER)


def test_tensors_cut_short_are_refused(saved):
    file = saved / "enrolment.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"enrolment\.safetensors"):
        load_enrolment(saved, ENCODER)


def test_a_stored_enrolment_judges_alike_without_learning_again(tmp_path, monkeypatch):
    enrolment = enrolment_of({"sound": 4, "crack": 4, "blowhole": 3}, marked=True)
    before = enrolment.verifier
    save_enrolment(enrolment, tmp_path)
    monkeypatch.setattr("fusion_diff.enrolment.enrolment.Verifier", None)  # learning again would need it
    after = load_enrolment(tmp_path, ENCODER).verifier
    tokens, residual = enrolment.bags[5].tokens, enrolment.bags[5].residual
    assert torch.equal(
        before.evidence(before.heads.maps(tokens, residual)), after.evidence(after.heads.maps(tokens, residual))
    )
    assert vars(before.fusion) == vars(after.fusion)
    assert before.calibration == after.calibration
    assert before.p_values(0.3) == after.p_values(0.3)
    assert before.classes.names == after.classes.names == ("blowhole", "crack")
    assert before.region_threshold == after.region_threshold
    assert before.scope.limit == after.scope.limit
    assert torch.equal(before.scope.bank, after.scope.bank)


@pytest.mark.parametrize("damage", ["missing", "another width", "not finite"])
def test_what_was_learned_is_refused_where_it_does_not_fit(tmp_path, damage):
    save_enrolment(enrolment_of({"sound": 4, "crack": 4}), tmp_path)
    tensors = load_file(tmp_path / "enrolment.safetensors")
    name = "verifier.multiple-instance.weights.0"
    if damage == "missing":
        del tensors[name]
    elif damage == "another width":
        tensors[name] = tensors[name][:, 1:].contiguous()
    else:
        tensors[name] = torch.full_like(tensors[name], torch.nan)
    save_file(tensors, tmp_path / "enrolment.safetensors")
    with pytest.raises(CheckpointError, match="enrol the references again"):
        load_enrolment(tmp_path, ENCODER)


@pytest.mark.parametrize("lost", ["bank", "limit"])
def test_a_scope_that_is_missing_is_named(saved, lost):
    described = json.loads((saved / "enrolment.json").read_text())
    tensors = load_file(saved / "enrolment.safetensors")
    if lost == "bank":
        del tensors["verifier.scope.bank"]
    else:
        del described["verifier"]["scope_limit"]
    save_file(tensors, saved / "enrolment.safetensors")
    (saved / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match=f"scope.{lost}"):
        load_enrolment(saved, ENCODER)


@pytest.mark.parametrize("damage", ["another width", "not finite", "no limit"])
def test_a_scope_that_does_not_fit_is_refused(saved, damage):
    described = json.loads((saved / "enrolment.json").read_text())
    tensors = load_file(saved / "enrolment.safetensors")
    if damage == "another width":
        tensors["verifier.scope.bank"] = torch.zeros(9, CHANNELS + 1)
    elif damage == "not finite":
        tensors["verifier.scope.bank"][:] = torch.nan
    else:
        described["verifier"]["scope_limit"] = float("nan")
    save_file(tensors, saved / "enrolment.safetensors")
    (saved / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="enrol the references again"):
        load_enrolment(saved, ENCODER)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens.1", torch.tensor(1.0)),
        ("tokens.1", torch.zeros(120, CHANNELS, dtype=torch.int32)),
        ("residual.1", torch.zeros(120, 2, dtype=torch.int64)),
        ("condition", torch.ones(1, 4, dtype=torch.int64)),
        ("condition", torch.full((1, 4), torch.nan)),
    ],
)
def test_references_that_are_not_finite_numbers_in_rows_are_refused(saved, name, value):
    tensors = load_file(saved / "enrolment.safetensors") | {name: value}
    save_file(tensors, saved / "enrolment.safetensors")
    with pytest.raises(CheckpointError, match="is inconsistent"):
        load_enrolment(saved, ENCODER)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["inside"], [10**400]),
        (["inside"], [float("nan")]),
        (["against"], []),
        (["outside"], ["a"]),
        (["calibration", "slope"], 10**400),
        (["calibration", "slope"], float("inf")),
        (["calibration", "slope"], 0.0),
        (["calibration", "slope"], -1.0),
        (["fusion", "weight"], {"departures": 0, "pooled": 0, "reconstruction": 0}),
        (["fusion", "spread", "departures"], 0),
        (["region_threshold"], float("nan")),
        (["classes", "names"], ["crack", "pore"]),
        (["classes", "names"], [7]),
        (["warnings"], [7]),
    ],
)
def test_learned_values_that_could_not_give_a_verdict_are_refused(saved, path, value):
    described = json.loads((saved / "enrolment.json").read_text())
    *outer, last = path
    inner = described["verifier"]
    for key in outer:
        inner = inner[key]
    assert last in inner
    inner[last] = value
    (saved / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="its fitted coefficients cannot be used"):
        load_enrolment(saved, ENCODER)


def test_a_head_that_is_not_registered_is_named_with_the_cure(saved):
    described = json.loads((saved / "enrolment.json").read_text())
    described["verifier"]["heads"].append("x" * 100_000)
    (saved / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match=r"its head xx+… is not known here; import the module that reg") as caught:
        load_enrolment(saved, ENCODER)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("verifier.classes.prototypes", lambda value: value[:, 1:]),
        ("verifier.classes.prototypes", lambda value: value.flatten()),
        ("verifier.classes.prototypes", lambda value: value * torch.nan),
        ("verifier.scale.std", lambda value: torch.full_like(value, torch.inf)),
        ("verifier.scale.mean", lambda value: value.expand(2, -1)),
        ("verifier.scale.mean", lambda value: value.int()),
    ],
)
def test_learned_tensors_that_could_not_give_a_verdict_are_refused(saved, name, change):
    tensors = load_file(saved / "enrolment.safetensors")
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, saved / "enrolment.safetensors")
    with pytest.raises(CheckpointError, match="its fitted coefficients cannot be used"):
        load_enrolment(saved, ENCODER)


def test_a_stranger_s_words_come_into_the_message_short(saved):
    described = json.loads((saved / "enrolment.json").read_text())
    described["verifier"]["fusion"]["x" * 100_000] = 1
    (saved / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="its fitted coefficients cannot be used") as caught:
        load_enrolment(saved, ENCODER)
    assert len(str(caught.value)) < 1000


def test_surfaces_that_tell_the_classes_apart_are_stored_and_recognised_again(tmp_path):
    enrolment = enrolment_of({"true": 2, "false": 2}, surfaces=[0, 0, 1, 2])
    save_enrolment(enrolment, tmp_path)
    loaded = load_enrolment(tmp_path, ENCODER)
    np.testing.assert_array_equal(loaded.verifier.inside, enrolment.verifier.inside)
    for seed, name in ((0, "true/0.tif"), (2, "false/3.tif")):
        match = loaded.verifier.recognise(surface(seed))
        assert match == enrolment.verifier.recognise(surface(seed))
        assert loaded.recognised(match).name == name
    assert loaded.recognised(loaded.verifier.recognise(surface(9))) is None
    fewer = loaded.shots(1)
    assert fewer.verifier.recognise(surface(2)) is None
    assert fewer.verifier.recognise(surface(1)).log_odds > 0


def test_surfaces_that_do_not_tell_are_none_and_stay_none_with_fewer_shots_saved_or_not(tmp_path):
    """Surfaces would be evidence with one reference per class; all references show that they are not."""
    enrolment = enrolment_of({"sound": 2, "crack": 2}, surfaces=[0, 1, 1, 2])
    assert enrolment.verifier.correspondence is None
    save_enrolment(enrolment, tmp_path)
    assert not any(name.startswith(("points", "descriptors")) for name in load_file(tmp_path / "enrolment.safetensors"))
    for each in (enrolment, load_enrolment(tmp_path, ENCODER)):
        assert each.verifier.correspondence is None
        assert each.shots(1).verifier.correspondence is None


@settings(max_examples=10)
@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.integers(1, 2))
def test_fewer_shots_say_the_same_whether_saved_or_not(surfaces, k):
    enrolment = enrolment_of({"true": 3, "false": 3}, surfaces=surfaces)
    with TemporaryDirectory() as folder:
        save_enrolment(enrolment, Path(folder))
        loaded = load_enrolment(Path(folder), ENCODER)
    fresh, stored = (each.shots(k).verifier for each in (enrolment, loaded))
    np.testing.assert_array_equal(fresh.inside, stored.inside)
    np.testing.assert_array_equal(fresh.outside, stored.outside)
    assert [fresh.recognise(surface(seed)) for seed in range(4)] == [
        stored.recognise(surface(seed)) for seed in range(4)
    ]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("points.0", lambda points: points[:, :1]),
        ("points.0", lambda points: points * torch.nan),
        ("points.0", lambda points: points.repeat(20, 1)),
        ("points.0", lambda points: points[0, 0]),
        ("descriptors.1", lambda descriptors: descriptors[:5]),
        ("descriptors.1", lambda descriptors: descriptors.float()),
        ("points.2", None),
    ],
)
def test_keypoints_that_are_none_are_refused(tmp_path, name, change):
    save_enrolment(enrolment_of({"true": 2, "false": 2}, surfaces=[0, 0, 1, 2]), tmp_path)
    tensors = load_file(tmp_path / "enrolment.safetensors")
    tensors[name] = change(tensors[name]).contiguous() if change else tensors.pop(name)
    if change is None:
        del tensors[name]
    save_file(tensors, tmp_path / "enrolment.safetensors")
    with pytest.raises(CheckpointError, match="enrol the references again"):
        load_enrolment(tmp_path, ENCODER)


def test_keypoints_of_some_references_only_are_refused(tmp_path):
    save_enrolment(enrolment_of({"true": 2, "false": 2}, surfaces=[0, 0, 1, 2]), tmp_path)
    tensors = load_file(tmp_path / "enrolment.safetensors")
    del tensors["points.2"], tensors["descriptors.2"]
    save_file(tensors, tmp_path / "enrolment.safetensors")
    with pytest.raises(CheckpointError, match="some of its references have keypoints and some do not"):
        load_enrolment(tmp_path, ENCODER)


def test_enrolments_of_earlier_versions_load_and_their_pixel_sizes_stay_unknown(saved):
    described = json.loads((saved / "enrolment.json").read_text())
    assert not any("pixel_size_um" in reference for reference in described["references"])
    loaded = load_enrolment(saved, ENCODER)
    assert loaded.compared.pixel_sizes is None
    assert loaded.compared.comparable(24.0)
    assert not any("pixel size" in line for line in loaded.warnings())


@pytest.mark.parametrize("size", [0, -1, "0.24", True, [0.24], 1e999])
def test_a_pixel_size_that_is_none_is_refused(saved, size):
    described = json.loads((saved / "enrolment.json").read_text())
    described["references"][1]["pixel_size_um"] = size
    (saved / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="its enrolment is incomplete"):
        load_enrolment(saved, ENCODER)


@pytest.mark.parametrize("page", [-1, 100_000, 1.0, "0", True, [0]])
def test_a_page_that_is_none_is_refused(saved, page):
    described = json.loads((saved / "enrolment.json").read_text())
    assert not any("page" in reference for reference in described["references"])
    described["references"][1]["page"] = page
    (saved / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match=r"its enrolment is incomplete .*page is .*a whole number from 0"):
        load_enrolment(saved, ENCODER)


def test_a_digest_for_some_references_only_is_refused(saved):
    described = json.loads((saved / "enrolment.json").read_text())
    described["references"][1]["sha256"] = "0" * 64
    (saved / "enrolment.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="some of its references have a digest and some do not"):
        load_enrolment(saved, ENCODER)


def test_pages_and_digests_follow_their_references():
    enrolment = replace(enrolment_of({"sound": 3, "crack": 3}), pages=(0, 1, 2) * 2, digests=tuple("abcdef"))
    assert enrolment.shots(2).pages == (0, 1, 0, 1)
    assert enrolment.shots(2).digests == ("a", "b", "d", "e")


def test_what_was_left_out_as_suspicious_is_a_doubt_about_the_figures():
    enrolment = replace(enrolment_of({"sound": 4, "crack": 4}), dropped=2)
    (doubt,) = enrolment.compared.doubts
    assert doubt.startswith("2 references that the audit found suspicious were left out, so all figures are")
    assert doubt in enrolment.warnings()


def test_pixel_sizes_follow_their_references_and_are_warned_of(tmp_path):
    enrolment = replace(enrolment_of({"sound": 3, "crack": 3}), pixel_sizes_um=(0.24, 0.24, 24.0) * 2)
    assert any("pixel sizes of the references differ, from 0.24 to 24 µm" in line for line in enrolment.warnings())
    few = enrolment.shots(2)
    assert few.pixel_sizes_um == (0.24, 0.24, 0.24, 0.24)
    assert not any("pixel size" in line for line in few.warnings())


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_figures_are_those_of_scikit_learn(count, others, seed):
    from sklearn.metrics import f1_score, roc_auc_score

    rng = np.random.default_rng(seed)
    inside, outside = (rng.integers(-3, 4, number).astype(float) for number in (count, others))
    verifier = replace(VERIFIER, inside=inside, outside=outside, calibration=Calibration(1.5, 0.4))
    figures = replace(ENROLMENT, verifier=verifier).figures
    truth, fused = np.r_[np.zeros(count), np.ones(others)], np.r_[inside, outside]
    assert figures["auroc"] == pytest.approx(roc_auc_score(truth, fused))
    f1 = f1_score(truth, 1.5 * fused + 0.4 > 0, average="macro", zero_division=0)
    assert figures["macro_f1"] == pytest.approx(f1)


ENROLMENT = enrolment_of({"sound": 2, "crack": 2})
VERIFIER = ENROLMENT.verifier
