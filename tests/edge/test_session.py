"""Exported models give the model's verdicts, and refuse damaged files and invalid input."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from fusion_diff import Micrograph, ReferenceSet
from fusion_diff.checkpoint import MANIFEST, digest, seal
from fusion_diff.edge import EdgeSession, runtime
from fusion_diff.edge.exported import DESCRIPTION, GRAPHS, Exported
from fusion_diff.errors import ArgumentError, CheckpointError, DependencyError, DeviceError, MicrographError
from fusion_diff.export.run import export_model
from fusion_diff.inspection.run import load_inspector
from fusion_diff.synthetic import generate
from fusion_diff.verdict.inspector import identity

pytestmark = pytest.mark.filterwarnings("ignore:this model")


@pytest.fixture(scope="module")
def session(exported_folder):
    return EdgeSession.load(exported_folder, threads=1, batch=2)


@pytest.mark.parametrize("wrong", [None, 7, "", "x\0", "x" * 5000])
def test_what_is_no_folder_is_refused(wrong):
    with pytest.raises(CheckpointError, match=r"not a folder; give the path|does not exist; give a folder"):
        EdgeSession.load(wrong)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"batch": "2"}, {"threads": 1.5}, {"threads": 0}])
def test_numbers_that_nothing_can_run_with_are_refused(exported_folder, wrong):
    with pytest.raises(ArgumentError, match=f"{next(iter(wrong))} is .*; give an integer of at least 1"):
        EdgeSession.load(exported_folder, **wrong)


def micrograph(flaw="crack", size=224, seed=3):
    drawn = generate(seed, size=size, material="alumina", flaw=flaw)
    return Micrograph.from_array(np.rint(drawn.pixels * 65535).astype(np.uint16), pixel_size_um=0.5)


def colour(height, width):
    grey = micrograph("sound", 320).pixels[:height, :width]
    return Micrograph.from_array(np.stack([grey, 0.8 * grey + 9, 0.6 * grey], axis=2))


def assert_same_verdict(edge, model):
    assert edge.score == pytest.approx(model.score, abs=1e-4)
    for field in (
        "decision",
        "in_scope",
        "predicted_class",
        "p_values",
        "references_sha256",
        "calibrated",
        "notes",
    ):
        assert getattr(edge, field) == getattr(model, field), field
    assert edge.evidence.values == pytest.approx(model.evidence.values, abs=2e-3)
    assert edge.evidence.scale == model.evidence.scale
    assert len(edge.regions) == len(model.regions)
    assert [each.name for each in edge.nearest] == [each.name for each in model.nearest]
    assert [each.similarity for each in edge.nearest] == pytest.approx([e.similarity for e in model.nearest], abs=1e-3)
    assert edge.contributions == pytest.approx(model.contributions, abs=1e-3)
    assert edge.offset == model.offset
    assert edge.compared_with == model.compared_with


@pytest.mark.parametrize(
    "sample",
    [micrograph(), micrograph("sound", 290), micrograph("counterfeit", 100), colour(240, 300)],
    ids=["a flaw on one tile", "several tiles", "smaller than a tile", "in colour"],
)
def test_an_exported_model_gives_the_verdict_of_the_model(session, embedded, sample):
    edge, model = session.inspect(sample), embedded.inspect(sample)
    assert_same_verdict(edge, model)
    assert edge.to_dict().keys() == model.to_dict().keys()
    if len(edge.regions) == 0:
        assert edge.reasons == model.reasons


def test_an_export_is_told_from_its_model_and_from_other_exports(session, embedded, exported_folder, changed):
    assert session.inspect(micrograph()).model_sha256 == session.sha256 == digest(exported_folder / MANIFEST)
    assert session.enrolment.exported_from == embedded.sha256 == embedded.inspect(micrograph()).model_sha256
    other = EdgeSession.load(changed(precision="int8"), threads=1)
    assert other.enrolment.exported_from == embedded.sha256
    assert len({session.sha256, other.sha256, embedded.sha256}) == 3
    assert repr(session) == f"EdgeSession({embedded.name!r}, on CPUExecutionProvider)"
    assert identity(session) == identity(embedded) | {"sha256": session.sha256}


def test_an_export_is_found_in_the_home_folder(exported_folder, monkeypatch, session):
    """Bash leaves the tilde of --model=~/exp as it is."""
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(exported_folder.parent))
    assert load_inspector(f"~/{exported_folder.name}", "cpu").sha256 == session.sha256
    assert EdgeSession.load(f"~/{exported_folder.name}").sha256 == session.sha256


def test_a_model_of_authentic_references_alone_is_exported_and_gives_its_verdict(narrow_model, tmp_path):
    model = copy.deepcopy(narrow_model)
    micrographs = [micrograph("sound", seed=seed) for seed in range(10, 14)]
    model.enroll(ReferenceSet.from_micrographs(micrographs, ["sound"] * 4, authentic="sound"))
    export_model(model, tmp_path / "exported")
    session = EdgeSession.load(tmp_path / "exported", threads=1)
    for sample in (micrograph(), micrograph("sound", 290)):
        assert_same_verdict(session.inspect(sample), model.inspect(sample))


def test_every_verdict_says_what_the_export_left_out(changed):
    folder = changed(notes=["does not recognise the surfaces of references"])
    inspection = EdgeSession.load(folder, device="CPU", threads=1).judge(micrograph(), alpha=0.1)
    assert inspection.reasons[-1] == "does not recognise the surfaces of references"


def test_a_reference_is_told_as_by_the_model(session, changed):
    sample, names = micrograph(), session.enrolment.references
    folder = changed(files=[[sample.sha256, None], *[[None, None]] * (len(names) - 1)])
    inspection = EdgeSession.load(folder, device="CPU", threads=1).judge(sample, alpha=0.1)
    assert inspection.notes[-1].startswith(f"It is the reference {names[0]}, which the model learned from")


def test_scores_alone_are_those_of_the_model(session, embedded):
    samples = [micrograph(), micrograph("sound", 240)]
    expected = embedded.predict_authenticity(samples)
    assert session.predict_authenticity(samples) == pytest.approx(expected.numpy(), abs=1e-4)
    assert session.predict_authenticity(samples[0]) == pytest.approx(float(expected[0]), abs=1e-4)
    assert session.predict_authenticity(iter(samples)).tolist() == session.predict_authenticity(samples).tolist()


def test_shots_that_take_all_references_are_taken_and_others_refused_with_the_cure(session, embedded):
    sample, most = micrograph(), max(embedded.enrolment.counts.values())
    expected = session.predict_authenticity(sample)
    assert session.predict_authenticity(sample, most) == expected
    said = []
    for inspector in (embedded, session):
        with pytest.warns(UserWarning, match=f"shots is {most + 1}, but no class has more than") as caught:
            assert inspector.predict_authenticity(sample, shots=most + 1) == pytest.approx(float(expected), abs=1e-4)
        said.append([str(each.message) for each in caught if "shots" in str(each.message)])
    assert said[0] == said[1]
    for few in (most - 1, 0, "5", 2.5):
        with pytest.raises(ArgumentError, match=r"shots is .*; leave shots out, or use the model that was exported"):
            session.predict_authenticity(sample, shots=few)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_threads_get_the_verdict_on_their_own_micrograph(in_openvino, exported_folder, runtime):
    session = EdgeSession.load(in_openvino if runtime == "openvino" else exported_folder, device="CPU", threads=1)
    samples = [micrograph(flaw, size, seed) for seed in (3, 4) for flaw, size in (("crack", 240), ("sound", 224))] * 3
    with ThreadPoolExecutor(4) as pool:
        scores = list(pool.map(session.predict_authenticity, samples))
    assert scores == session.predict_authenticity(samples).tolist()


def test_built_in_references_are_warned_of_as_the_model_does_with_one_step_more(session, embedded):
    said = []
    for inspector in (embedded, session):
        with pytest.warns(UserWarning, match="built-in procedural references only") as caught:
            inspector.inspect(micrograph())
        said.append(str(caught.list[0].message))
    assert said[1] == f"{said[0]}, then export the model again"


@pytest.fixture(scope="module")
def converted(exported_folder, tmp_path_factory):
    """The graph of the exported model in OpenVINO's format: a file and its weights."""
    from fusion_diff.export.onnx_file import convert_to_openvino

    folder = tmp_path_factory.mktemp("openvino")
    convert_to_openvino(exported_folder / GRAPHS["onnx"], folder / GRAPHS["openvino"])
    return folder


@pytest.fixture
def in_openvino(changed, converted):
    folder = changed(runtime="openvino")
    shutil.copytree(converted, folder, dirs_exist_ok=True)
    (folder / GRAPHS["onnx"]).unlink()
    seal(folder)
    return folder


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_loaded_export_does_not_change_with_its_files(request, changed, runtime):
    folder = request.getfixturevalue("in_openvino") if runtime == "openvino" else changed()
    session = EdgeSession.load(folder, device="CPU", threads=1)
    before = session.predict_authenticity(micrograph())
    for file in folder.iterdir():
        with file.open("r+b") as stream:
            stream.write(bytes(file.stat().st_size))
    assert session.predict_authenticity(micrograph()) == before


def test_openvino_gives_the_same_verdict(in_openvino, embedded):
    folder = in_openvino
    session = EdgeSession.load(folder, device="CPU", threads=1)
    assert_same_verdict(session.inspect(micrograph()), embedded.inspect(micrograph()))
    for device in ("GPU.7", "AUTO:GPU.7,CPU", "MULTI", "GPU:CPU"):
        with pytest.raises(DeviceError, match=rf"{device}: openvino has no such device here, only .*CPU"):
            EdgeSession.load(folder, device=device)
    for device in ("AUTO:CPU", "MULTI:CPU", "hetero:cpu", "cpu"):
        assert EdgeSession.load(folder, device=device, threads=1).device == "CPU"
    (folder / "graph.weights").write_bytes((folder / "graph.weights").read_bytes()[:1000])
    seal(folder)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        EdgeSession.load(folder)


@pytest.mark.parametrize("device", ["NPU", "cuda", "xpu", "mps", "CUDAExecutionProvider", "quantum"])
def test_a_device_that_is_absent_is_said_as_it_was_typed_with_those_that_are_there(exported_folder, device):
    import onnxruntime

    here = onnxruntime.get_available_providers()
    if device in here or (device in ("cuda", "xpu") and set(here) & set(runtime._PROVIDERS["GPU"])):
        pytest.skip("it is here")
    with pytest.raises(DeviceError, match=rf"^{device}: .*only .*CPUExecutionProvider; use AUTO"):
        load_inspector(str(exported_folder), device)


@pytest.mark.parametrize("device", ["cpu", "CPUExecutionProvider", "cpuexecutionprovider", "auto"])
def test_devices_can_be_named_as_the_runtime_does_in_any_case(exported_folder, device):
    import onnxruntime

    if device == "auto" and set(onnxruntime.get_available_providers()) & set(runtime._PROVIDERS["GPU"]):
        pytest.skip("there is a GPU here")
    assert load_inspector(str(exported_folder), device).device == "CPUExecutionProvider"


def test_on_a_gpu_of_nvidia_onnxruntime_computes_in_full_precision(exported_folder):
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime has no CUDA here")
    graph = runtime.open_graph(exported_folder, "onnx", "CUDAExecutionProvider", 1)
    assert graph._session.get_provider_options()["CUDAExecutionProvider"]["use_tf32"] == "0"


def test_threads_that_have_nothing_to_do_leave_the_processor_to_others(exported_folder):
    options = runtime.open_graph(exported_folder, "onnx", "CPU", 2)._session.get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


@pytest.mark.parametrize("device", [None, "", 3])
def test_what_is_no_device_is_refused(exported_folder, device):
    with pytest.raises(DeviceError, match="is not a device; use AUTO, CPU, GPU, NPU"):
        EdgeSession.load(exported_folder, device=device)


def test_a_folder_that_is_no_exported_model_is_refused(tmp_path, checkpoint_folder):
    for folder in (tmp_path, checkpoint_folder, checkpoint_folder / "README.md"):
        with pytest.raises(CheckpointError, match="not an exported model; give a folder written by"):
            EdgeSession.load(folder)
    with pytest.raises(CheckpointError, match="missing: does not exist; give a folder written by"):
        EdgeSession.load(tmp_path / "missing")


def test_a_truncated_graph_is_refused_before_it_is_parsed(exported_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(exported_folder, folder)
    graph = folder / GRAPHS["onnx"]
    graph.write_bytes(graph.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"graph\.onnx: altered or truncated"):
        EdgeSession.load(folder)
    seal(folder)  # truncated, and then the manifest updated
    with pytest.raises(CheckpointError, match=r"graph\.onnx: cannot be loaded .*export the model again"):
        EdgeSession.load(folder)
    graph.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        EdgeSession.load(folder)


@pytest.mark.parametrize("number", [1, 3, 9])
def test_another_version_is_refused(changed, number):
    with pytest.raises(CheckpointError, match=rf"format 'fusion-diff/edge/{number}', but this version reads .*export"):
        EdgeSession.load(changed(format=f"fusion-diff/edge/{number}"))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_graph_of_another_export_is_refused_as_it_is_loaded(request, changed, runtime):
    folder = request.getfixturevalue("in_openvino") if runtime == "openvino" else changed()
    described = json.loads((folder / DESCRIPTION).read_text())
    names, kinds = described["references"], described["kinds"]
    for changes, said in (
        ({"kinds": [*kinds, "another"]}, f"its dense are .*{len(kinds) + 4}, 28, 28"),
        (
            {key: described[key][:-1] for key in ("references", "labels", "files", "pixel_sizes_um", "enlargements")},
            rf"its alike are \(any, {len(names)}\), but \(any, {len(names) - 1}\) by edge.json",
        ),
        ({"tile": 256}, r"its pixels are \(any, 3, 224, 224\), but \(any, 3, 256, 256\) by edge.json"),
    ):
        (folder / DESCRIPTION).write_text(json.dumps(described | changes))
        seal(folder)
        with pytest.raises(
            CheckpointError, match=rf"graph\.\w+: {said}.*: the graph is that of another export; export"
        ):
            EdgeSession.load(folder)


def graph(kinds, inputs, outputs):
    """Return a graph of operators by their output, each of one input, and of the sizes of inputs and outputs."""
    from onnx import TensorProto, helper

    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in side.items()]
        for side in (inputs, outputs)
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [2])  # for those that take one
    nodes = [
        helper.make_node("Sqrt", [given], [made])
        if kind == "Sqrt"
        else helper.make_node(kind, [given, "axis"], [made], keepdims=0)
        for made, (kind, given) in kinds.items()
    ]
    drawn = helper.make_graph(nodes, "other", *ends, [axis])
    return helper.make_model(drawn, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def swapped(folder, runtime, tiles):
    """Give an exported folder a graph that takes so many tiles and tells no other size."""
    import onnx

    from fusion_diff.export.onnx_file import convert_to_openvino

    kinds = {"dense": ("Sqrt", "pixels"), "sums": ("ReduceSum", "keep"), "alike": ("ReduceSum", "keep")}
    large, small = [tiles, "a", "b", "c"], [tiles, "d"]
    made = graph(kinds, {"pixels": large, "keep": [*small, "e"]}, {"dense": large, "sums": small, "alike": small})
    onnx.save(made, folder / GRAPHS["onnx"])
    if runtime == "openvino":
        convert_to_openvino(folder / GRAPHS["onnx"], folder / GRAPHS["openvino"])
    seal(folder)
    return folder


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_graph_that_returns_what_it_did_not_tell_is_refused_with_its_name(changed, runtime):
    session = EdgeSession.load(swapped(changed(runtime=runtime), runtime, tiles="n"), threads=1)
    with pytest.raises(CheckpointError, match=rf"^{session.name}: the graph returned the shapes .*; export the model"):
        session.judge(micrograph(), alpha=0.1)


def test_a_graph_of_other_inputs_is_refused(changed):
    import onnx

    folder = changed()
    onnx.save(graph({"y": ("Sqrt", "x")}, {"x": [1]}, {"y": [1]}), folder / GRAPHS["onnx"])
    seal(folder)
    with pytest.raises(CheckpointError, match="expected the inputs or outputs pixels, keep, got x"):
        EdgeSession.load(folder)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_graph_that_fails_while_it_runs_is_told_as_such(changed, runtime):
    session = EdgeSession.load(swapped(changed(runtime=runtime), runtime, tiles=2), threads=1)  # and it is given one
    with pytest.raises(CheckpointError, match=r"graph\.\w+: cannot be run \(.*export the model again"):
        session.judge(micrograph(), alpha=0.1)


def test_what_is_no_micrograph_is_refused(session):
    with pytest.raises(MicrographError, match="expected a Micrograph, got ndarray"):
        session.inspect(np.zeros((224, 224)))
    with pytest.raises(ValueError, match="alpha"):
        session.inspect(micrograph(), alpha=1.0)


@pytest.mark.parametrize("kind", ["RuntimeException", "MemoryError"])
def test_too_little_memory_for_the_graph_is_no_damage_to_it(exported_folder, monkeypatch, kind):
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as own

    def load(*_, **__):
        raise MemoryError if kind == "MemoryError" else getattr(own, kind)("Exception during loading: std::bad_alloc")

    monkeypatch.setattr(onnxruntime, "InferenceSession", load)
    with pytest.raises(MemoryError, match=r"graph\.onnx: not enough memory to load it"):
        EdgeSession.load(exported_folder)


def test_a_missing_runtime_is_said_with_what_to_install(exported_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        DependencyError,
        match=r"needs onnxruntime, which is not .*; run pip install onnxruntime \(part of the extra 'onnx'\)",
    ):
        EdgeSession.load(exported_folder)


def test_inspecting_loads_nothing_but_numpy_and_the_runtime(exported_folder):
    program = (
        "import sys, warnings; warnings.simplefilter('ignore');"
        "from fusion_diff.edge import EdgeSession; from fusion_diff.micrograph import Micrograph; import numpy as np;"
        "pixels = np.random.default_rng(0).random((100, 300));"
        "EdgeSession.load(sys.argv[1], threads=1).inspect(Micrograph.from_array(pixels));"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(exported_folder)], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert {"numpy", "onnxruntime"} <= loaded
    heavy = {"torch", "transformers", "diffusers", "scipy", "sklearn", "cv2", "PIL", "safetensors", "rich", "typer"}
    assert not loaded & heavy


def test_no_warning_hides_in_a_verdict(session):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session.judge(micrograph(), alpha=0.1)
    assert not caught


def test_another_magnification_is_out_of_scope_as_for_the_model(changed, exported_folder):
    sizes = [0.24] * len(Exported.read(exported_folder).references)
    session = EdgeSession.load(changed(pixel_sizes_um=sizes), device="CPU", threads=1)
    far = replace(micrograph("sound", 290), pixel_size_um=24.0)
    it = session.judge(far, alpha=0.1)
    assert (it.in_scope, it.decision) == (False, "inconclusive")
    assert it.reasons[0].startswith("Out of scope: its pixels are 24 µm wide, but those of the references 0.24 µm")
    with pytest.warns(UserWarning, match="Out of scope: its pixels are 24 µm wide"):
        score = session.predict_authenticity(far)
    assert score == pytest.approx(it.score)
    with pytest.warns(UserWarning, match=r"\(score \[1\]\): Out of scope"):
        session.predict_authenticity([replace(far, pixel_size_um=0.24), far])


def test_references_that_were_enlarged_more_are_noted_as_by_the_model(changed, session, exported_folder):
    sizes = [3.5] * len(Exported.read(exported_folder).references)
    small = EdgeSession.load(changed(enlargements=sizes), device="CPU", threads=1)
    assert "so they were enlarged 3.5 times or more, but it only 1.0 times" in " ".join(
        small.judge(micrograph(), alpha=0.1).notes
    )
    assert not [note for note in session.judge(micrograph(), alpha=0.1).notes if "enlarged" in note]


def test_a_session_warns_of_built_in_references_where_it_was_called(session, monkeypatch):
    monkeypatch.setattr(session, "enrolment", replace(session.enrolment, builtin=True))
    with pytest.warns(UserWarning, match="built-in procedural references only") as caught:
        session.predict_authenticity(micrograph())
    assert caught.list[0].filename == __file__
