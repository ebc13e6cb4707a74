"""The description of an exported model is untrusted until it is checked."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion_diff.checkpoint import write_json
from fusion_diff.edge.exported import DESCRIPTION, Exported
from fusion_diff.errors import CheckpointError
from fusion_diff.export.portable import describe, portable
from fusion_diff.pretrain.builtin import builtin_reference_set
from fusion_diff.warn import EnrolmentWarning

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def described(exported_folder):
    return json.loads((exported_folder / DESCRIPTION).read_text())


def test_what_is_written_is_read_back(exported_folder, described):
    assert Exported.read(exported_folder).to_dict() == described


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_other_value_is_read_or_refused_and_nothing_else(described, tmp_path, data):
    key = data.draw(st.sampled_from(sorted(described)))
    (tmp_path / DESCRIPTION).write_text(json.dumps(described | {key: data.draw(JSON)}))
    try:
        exported = Exported.read(tmp_path)
    except CheckpointError:
        return
    assert exported.predict([0.0] * len(exported.classes), 0.9) == exported.authentic
    assert all(0 < p <= 1 for p in exported.p_values(0.0).values())


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("runtime", "torch", "unknown runtime 'torch'"),
        ("tile", 10**9, "tile"),
        ("tile", 225, "cannot be divided into 8 or more tokens of"),
        ("kinds", [], "lacks the evidence"),
        ("fusion", {"centre": {}, "spread": {}, "weight": {}}, "have no weight"),
        ("fusion", {key: {"reconstruction": 1} for key in ("centre", "spread", "weight")}, "lacks the evidence"),
        ("calibration", {"slope": 0.0, "intercept": 0.0}, "wrong sign"),
        ("calibration", {"slope": -1.0, "intercept": 0.0}, "wrong sign"),
        ("inside", [float("nan")], "not a finite number"),
        ("inside_shares", [1.0], "does not have one share in"),
        ("outside_shares", [1.0] * 9 + [0.0], "does not have one share in"),
        ("outside_shares", [1.0] * 9 + [1.5], "does not have one share in"),
        ("class_norms", [1.0], "classes or references differ in length"),
        ("name", 5, "is not a string"),
        ("pixel_sizes_um", [0.5], "pixel sizes differ in length"),
        ("files", [["ab", 0]], "of their files and of their pixel sizes differ in length"),
        ("files", [["ab", -1]], "-1 is not a page"),
        ("files", [[5, None]], "5 is not a string"),
        ("enlargements", [1.0], "not each enlarged by a number of 1 or more"),
        ("enlargements", [0.5] * 20, "not each enlarged by a number of 1 or more"),
        ("enlargements", [float("nan")] * 20, "not a finite number"),
        ("specimens", 0, "specimens"),
        ("specimens_by_side", {"authentic": 5}, "one number for each side"),
        ("specimens_by_side", {"authentic": 5, "not authentic": False}, "whole numbers from 0 to"),
        ("specimens_by_side", {"authentic": 5, "not authentic": -1}, "whole numbers from 0 to"),
        ("figures", {"auroc": "good"}, "not a finite number"),
    ],
)
def test_what_does_not_hold_together_is_refused_with_the_reason(described, tmp_path, key, value, says):
    (tmp_path / DESCRIPTION).write_text(json.dumps(described | {key: value}))
    with pytest.raises(CheckpointError, match=f"damaged .*{says}.*export the model again"):
        Exported.read(tmp_path)


def test_readings_that_show_no_place_are_refused(described, tmp_path):
    fusion = {key: {"pooled": value} for key, value in (("centre", 0), ("spread", 1), ("weight", 1))}
    changes = {"fusion": fusion, "kinds": [*described["kinds"], "pooled"]}
    (tmp_path / DESCRIPTION).write_text(json.dumps(described | changes))
    with pytest.raises(CheckpointError, match=r"damaged .*evidence map.*export the model again"):
        Exported.read(tmp_path)


def test_a_reading_that_is_not_registered_is_named_with_the_cure(described, tmp_path):
    fusion = {key: values | {"distance": 1.0} for key, values in described["fusion"].items()}
    (tmp_path / DESCRIPTION).write_text(json.dumps(described | {"fusion": fusion}))
    cure = "import the module that registers it, or export the model again without it"
    with pytest.raises(CheckpointError, match=rf"edge\.json: its reading distance is not known here; {cure}"):
        Exported.read(tmp_path)


def test_an_export_of_before_enlargements_were_stored_is_read(described, tmp_path):
    (tmp_path / DESCRIPTION).write_text(json.dumps({k: v for k, v in described.items() if k != "enlargements"}))
    assert Exported.read(tmp_path).enlargements == ()


@pytest.mark.parametrize("key", sorted(set(Exported.__dataclass_fields__) - {"enlargements"}))
def test_every_entry_is_needed(described, tmp_path, key):
    (tmp_path / DESCRIPTION).write_text(json.dumps({k: v for k, v in described.items() if k != key}))
    with pytest.raises(CheckpointError, match=f"damaged .*{key}"):
        Exported.read(tmp_path)


def test_specimens_of_each_side_are_those_of_the_model_where_it_was_not_cross_fitted(embedded, tmp_path):
    model = copy.deepcopy(embedded)
    two = builtin_reference_set().shots(1).subset([0, 1])
    with pytest.warns(EnrolmentWarning, match="too few"):
        compared = model.enroll(two).compared
    assert compared.specimens_by_side == {"authentic": 1, "not authentic": 1}
    assert "too few references to cross-fit" in " ".join(compared.doubts)
    enrolment, notes = portable(model)
    kinds = tuple(enrolment.verifier.heads.heads)
    exported = describe(model, enrolment, kinds, runtime="onnx", precision="fp32", notes=notes)
    write_json(tmp_path / DESCRIPTION, exported.to_dict())
    assert Exported.read(tmp_path).compared == exported.compared == compared
