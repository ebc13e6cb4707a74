"""Exports: which models are refused, and what is omitted."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from fusion_diff import Micrograph, ReferenceSet
from fusion_diff.edge import EdgeSession
from fusion_diff.edge.exported import GRAPHS, Exported
from fusion_diff.errors import CheckpointError, DependencyError, EnrolmentError, ExportError
from fusion_diff.export import run
from fusion_diff.export.graph import ScoringGraph
from fusion_diff.export.onnx_file import convert_to_openvino
from fusion_diff.export.portable import portable
from fusion_diff.export.run import export_model, others_than_enrolled
from fusion_diff.fewshot.correspondence import LOG_ODDS
from fusion_diff.fewshot.keypoints import Keypoints
from fusion_diff.fewshot.verifier import Verifier
from fusion_diff.micrograph.tiles import Grid
from fusion_diff.perception import perceive
from fusion_diff.pretrain.builtin import builtin_reference_set
from fusion_diff.verdict.model_evidence import ModelEvidence


@pytest.fixture
def enrolled(embedded):
    """The embedded model with its built-in references; tests may change it."""
    return copy.deepcopy(embedded)


def test_the_graph_adds_up_to_the_reading_of_the_model(enrolled):
    micrograph = next(iter(builtin_reference_set())).micrograph
    verifier = enrolled.enrolment.verifier
    graph = ScoringGraph(enrolled.encoder, verifier, enrolled.enrolment.mean_tokens)
    grid = Grid.of(micrograph.height, micrograph.width, tile=graph.encoder.tile, stride=8)
    reading = ModelEvidence.of(*perceive(micrograph, enrolled.encoder), verifier)
    total, evidence = 0, np.zeros((grid.rows, grid.columns))
    for tile in grid.tiles():
        keep = torch.zeros(1, graph.side, graph.side)
        inside = (
            slice(tile.rows[0] - tile.top, tile.rows[1] - tile.top),
            slice(tile.columns[0] - tile.left, tile.columns[1] - tile.left),
        )
        keep[0][inside] = 1
        with torch.inference_mode():
            dense, sums, alike = graph(torch.from_numpy(grid.read(micrograph, tile))[None], keep)
        total = total + sums[0]
        evidence[slice(*tile.rows), slice(*tile.columns)] = dense[0, graph.channels.index("evidence")][inside]
        assert torch.allclose(alike, sums @ graph.signatures.T)
    assert evidence == pytest.approx(reading.evidence, abs=5e-3)
    assert (total / evidence.size).numpy() == pytest.approx(reading.mean_token.numpy(), abs=1e-4)


def test_a_model_is_exported_as_without_settings_of_torch_and_takes_no_random_numbers(
    enrolled, exported_folder, tmp_path
):
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        export_model(enrolled, tmp_path / "out")
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert Exported.read(tmp_path / "out").to_dict() == Exported.read(exported_folder).to_dict()


def test_a_graph_that_says_something_else_is_refused_and_nothing_is_left(
    enrolled, exported_folder, tmp_path, monkeypatch
):
    heads = enrolled.enrolment.verifier.heads
    learned = heads.heads["multiple-instance"]
    learned.weights[0] += 0.05  # the enrolment now differs from that of the graph below
    stale = exported_folder / GRAPHS["onnx"]
    monkeypatch.setattr(run, "write_onnx", lambda graph, file: shutil.copy(stale, file))
    with pytest.raises(ExportError, match=r"not exported: in onnx at fp32, .*; try the other format"):
        export_model(enrolled, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_eight_bits_without_references_are_refused_with_the_cure(enrolled, tmp_path):
    with pytest.raises(
        ExportError,
        match=r"calibrated on the references' images.*give them with --references, or as references in Python",
    ):
        export_model(enrolled, tmp_path / "out", int8=True)


def test_references_other_than_the_enrolled_ones_are_warned_of_and_refused_in_eight_bits(
    enrolled, exported_folder, tmp_path, monkeypatch
):
    graph = exported_folder / GRAPHS["onnx"]
    monkeypatch.setattr(run, "write_onnx", lambda _, file: shutil.copy(graph, file))  # the same, written before
    enrolment, builtin = enrolled.enrolment, builtin_reference_set()
    assert others_than_enrolled(enrolled, enrolment, builtin) is None
    few = enrolment.shots(2)
    assert others_than_enrolled(enrolled, few, builtin) is None, "some may have been left out on enrolling"
    others = "13 of 15 enrolled references are not among those given, such as built-in sound 1"
    some = builtin.subset([0, 5])
    assert others_than_enrolled(enrolled, enrolment, some) == others
    with pytest.raises(ExportError, match=f"{others}; 8 bits are calibrated on these: give the references that"):
        export_model(enrolled, tmp_path / "out", int8=True, references=some)
    with pytest.warns(UserWarning, match=f"{others}; the exported model is compared with the model on other"):
        export_model(enrolled, tmp_path / "out", references=some)


def test_what_the_recognition_of_surfaces_is_worth_on_the_references_is_measured(
    enrolled, exported_folder, tmp_path, monkeypatch
):
    graph, builtin = exported_folder / GRAPHS["onnx"], builtin_reference_set()
    monkeypatch.setattr(run, "write_onnx", lambda _, file: shutil.copy(graph, file))  # the same, written before
    with pytest.warns(UserWarning, match="without the recognition of surfaces, .* it recognises 15 of 15 micrographs"):
        parity = export_model(enrolled, tmp_path / "out", references=builtin).parity
    assert parity.difference < 1e-5
    assert parity.alpha == pytest.approx(1 / 6), "there are 5 authentic specimens"
    assert parity.decided > 0
    micrographs = [each.micrograph for each in builtin]
    here, there = (
        np.asarray(each.predict_authenticity(micrographs)) for each in (enrolled, EdgeSession.load(tmp_path / "out"))
    )
    apart = np.abs(here - there)
    assert parity.recognising.difference == pytest.approx(apart.max(), abs=1e-5)
    assert parity.recognising.difference > 0.3
    assert parity.recognising.furthest == micrographs[apart.argmax()].name


def test_a_file_that_openvino_cannot_write_is_told_with_the_cure(exported_folder, tmp_path, room_for):
    with room_for(2**20), pytest.raises(ExportError, match=r"OpenVINO cannot write its files .*; free some space"):
        convert_to_openvino(exported_folder / GRAPHS["onnx"], tmp_path / GRAPHS["openvino"])


def test_a_reference_moved_by_a_pixel_is_another(enrolled):
    micrographs = [each.micrograph for each in builtin_reference_set()][:4]
    moved = [Micrograph.from_array(np.roll(each.pixels, 1, axis=1)) for each in micrographs]
    given, other = (
        ReferenceSet.from_micrographs(each, ["sound"] * 4, authentic="sound") for each in (micrographs, moved)
    )
    enrolment = enrolled.enroll(given)
    assert others_than_enrolled(enrolled, enrolment, given) is None
    assert others_than_enrolled(enrolled, enrolment, other).startswith("4 of 4 enrolled references")


def test_a_model_that_is_not_enrolled_is_refused(model, tmp_path):
    with pytest.raises(EnrolmentError, match="no enrolled references to export"):
        export_model(model, tmp_path / "out")


def test_a_folder_that_holds_something_else_is_refused_before_anything_else(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="holds something that is not a checkpoint"):
        export_model(model, tmp_path)


def test_a_verdict_that_rests_on_the_diffusion_path_is_refused_with_the_cure(enrolled, tmp_path):
    verifier = enrolled.enrolment.verifier
    weights = verifier.fusion.weight | {"departures": 0.75, "reconstruction": 0.25}
    verifier = replace(verifier, fusion=replace(verifier.fusion, weight=weights))
    enrolled.enrolment = replace(enrolled.enrolment, verifier=verifier)
    with pytest.raises(
        ExportError,
        match=r"25% of its verdict comes from the diffusion path.*again without reconstruction \(fusion-diff enroll",
    ):
        export_model(enrolled, tmp_path / "out")


def test_a_head_that_computes_with_what_exports_do_not_hold_is_named_with_it(narrow, tmp_path):
    class Own:
        kinds = ("own",)

        def maps(self, tokens, residual):
            return {"own": tokens.norm(dim=1)}

    narrow.enroll(builtin_reference_set().shots(2))
    narrow.enrolment.verifier.heads.heads["own"] = Own()
    with pytest.raises(ExportError, match=r"not exported: own, a head .* computes with ReduceL2, which") as caught:
        export_model(narrow, tmp_path / "out")
    assert "tampered" not in str(caught.value)
    assert "nstall" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_never_overwritten_by_what_is_exported_of_it(enrolled, checkpoint_folder, tmp_path, monkeypatch):
    shutil.copytree(checkpoint_folder, tmp_path / "model")
    with pytest.raises(ExportError, match="contains a model that is not an exported one"):
        export_model(enrolled, tmp_path / "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match="contains a model that is not an exported one"):
        export_model(enrolled, "~/model")
    with pytest.raises(ExportError, match="runtime is 'tflite'; use onnx or openvino"):
        export_model(enrolled, tmp_path / "out", runtime="tflite")


def test_a_model_on_another_device_is_not_exported_and_the_cure_is_named(enrolled, tmp_path, monkeypatch):
    monkeypatch.setattr(enrolled, "_device", torch.device("cuda"))
    with pytest.raises(ExportError, match=r"is on cuda; move it with to\('cpu'\)"):
        export_model(enrolled, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_exporter_is_said_with_what_to_install(enrolled, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(DependencyError, match="onnxscript, which is not installed; run pip install onnxscript"):
        export_model(enrolled, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_surfaces_are_left_out_and_the_scores_of_references_with_them(enrolled):
    enrolment = enrolled.enrolment
    bags = []
    for index, bag in enumerate(enrolment.bags):
        same = np.random.default_rng(0 if index < 2 else index)  # the first two show the same surface
        points = same.uniform(0, 200, (40, 2)).astype(np.float32)
        bags.append(replace(bag, keypoints=Keypoints(points, same.integers(0, 255, (40, 128)).astype(np.uint8))))
    whole = Verifier.fit(bags, enrolment.labels, enrolment.authentic, enrolment.groups, enrolment.paths)
    enrolled.enrolment = changed = replace(enrolment, bags=tuple(bags), verifier=whole)
    exported, notes = portable(enrolled)
    assert whole.correspondence is not None
    assert exported.verifier.correspondence is None
    assert "does not recognise" in notes[0]
    authentic = [label == changed.authentic for label in changed.labels]
    assert authentic[:2] == [True, True]
    moved = exported.verifier.inside - whole.inside
    assert moved[:2] == pytest.approx([LOG_ODDS / whole.calibration.slope] * 2)
    assert moved[2:] == pytest.approx(np.zeros(len(moved) - 2))
    assert exported.verifier.outside == pytest.approx(whole.outside)
