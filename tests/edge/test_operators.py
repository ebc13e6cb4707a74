"""What graphs hold: that of every kind of export passes, and everything else is refused before it runs."""

from __future__ import annotations

import copy
import io
import shutil
import warnings
from dataclasses import replace
from xml.sax.saxutils import quoteattr

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from fusion_diff.checkpoint import seal
from fusion_diff.edge import EdgeSession, operators
from fusion_diff.edge.exported import GRAPHS
from fusion_diff.edge.operators import OPERATORS, check_operators
from fusion_diff.encoder.flaw_detector import FlawDetector
from fusion_diff.errors import CheckpointError
from fusion_diff.export.graph import ScoringGraph
from fusion_diff.export.int8 import Quantiser
from fusion_diff.export.onnx_file import convert_to_openvino, write_onnx
from fusion_diff.fewshot.heads import Heads
from fusion_diff.fewshot.readings import READINGS, RECONSTRUCTION
from fusion_diff.pretrain.builtin import builtin_reference_set


@pytest.fixture(scope="module")
def exports(tmp_path_factory, narrow_model, exported_folder):
    """Graphs that hold between them all that exports can hold: every kind of evidence, in fp32 and in 8 bits."""
    folder = tmp_path_factory.mktemp("graphs, fp32 and int8")  # OpenVINO takes a path with a comma for two
    model = copy.deepcopy(narrow_model)
    model.flaw_detector = FlawDetector(sum(model.encoder.paths)).eval().requires_grad_(False)
    references = builtin_reference_set().shots(2)
    enrolment = model.enroll(references)
    bags = [replace(bag, residual=bag.residual[:, :0]) for bag in enrolment.bags]
    authentic = np.asarray([label == enrolment.authentic for label in enrolment.labels])
    heads = Heads.fit(bags, authentic, enrolment.paths, model.flaw_detector, suspicious=True)
    readings = [name for name in READINGS if name != RECONSTRUCTION]
    fusion = replace(
        enrolment.verifier.fusion,
        centre=dict.fromkeys(readings, 0.0),
        spread=dict.fromkeys(readings, 1.0),
        weight=dict.fromkeys(readings, 1 / len(readings)),
    )
    verifier = replace(enrolment.verifier, heads=heads, fusion=fusion)
    graph = ScoringGraph(model.encoder, verifier, enrolment.mean_tokens)
    assert set(graph.kinds) == {"multiple-instance", "novelty", "outliers", "pooled", "suspicion"}
    every, rounded = folder / "every.onnx", folder / "rounded.onnx"
    write_onnx(graph, every)
    micrographs = [reference.micrograph for reference in list(references)[:2]]
    quantiser = Quantiser.of(every, folder / "ranges.json", micrographs, tile=model.encoder.tile)
    quantiser.write(rounded, list(quantiser.groups)[::2])
    graphs = [exported_folder / GRAPHS["onnx"], every, rounded]
    for file in (every, rounded):
        convert_to_openvino(file, folder / file.stem / "graph.xml")
        graphs.append(folder / file.stem / "graph.xml")
    return {"onnx": graphs[:3], "openvino": graphs[3:]}


@pytest.mark.parametrize("runtime", GRAPHS)
def test_every_kind_of_export_passes_and_nothing_is_allowed_that_none_contains(exports, runtime):
    found = set()
    for file in exports[runtime]:
        check_operators(file, runtime)
        with file.open("rb") as handle:
            walk = operators._onnx_operators if runtime == "onnx" else operators._openvino_operators
            found |= set(walk(handle))
    assert found == OPERATORS[runtime]


def test_what_is_found_in_an_export_is_what_the_library_finds(exports):
    for file in exports["onnx"]:
        with file.open("rb") as handle:
            found = list(operators._onnx_operators(handle))
        assert found == [node.op_type for node in onnx.load(file).graph.node]


def value(name, *sizes, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, sizes)


def model_of(*nodes, functions=(), weights=(), sparse=()):
    """A model with the inputs and outputs of an export, from `pixels` by the given nodes to `dense`."""
    tile, side = tuple("nchw"), ("n", "r", "s")  # any sizes
    rest = [helper.make_node("Gather", ["keep", "first"], [name], axis=1) for name in ("sums", "alike")]
    first = helper.make_tensor("first", TensorProto.INT64, [], [0])
    inputs = [value("pixels", *tile), value("keep", *side)]
    outputs = [value("dense", *tile), value("sums", "n", "s"), value("alike", "n", "s")]
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("own", 1)]
    return helper.make_model(
        helper.make_graph([*nodes, *rest], "g", inputs, outputs, [first, *weights], sparse_initializer=sparse),
        functions=functions,
        opset_imports=imports,
        ir_version=10,
    )


def loop():
    """A node that turns `pixels` over and over, for 2^62 times."""
    body = helper.make_graph(
        [helper.make_node("Sqrt", ["before"], ["after"]), helper.make_node("And", ["going", "going"], ["goes on"])],
        "body",
        [value("i", kind=TensorProto.INT64), value("going", kind=TensorProto.BOOL), value("before", 1, 3, 16, 16)],
        [value("goes on", kind=TensorProto.BOOL), value("after", 1, 3, 16, 16)],
    )
    times = helper.make_node("Constant", [], ["times"], value_int=2**62)
    going = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    return times, going, helper.make_node("Loop", ["times", "yes", "pixels"], ["dense"], body=body)


def elsewhere(name, location):
    """A weight whose four bytes lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


SPARSE = onnx.SparseTensorProto(
    values=helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0]),
    indices=helper.make_tensor("i", TensorProto.INT64, [1], [0]),
    dims=[1],  # of 2^34, a runtime takes 64 GiB for these few bytes
)

ENDLESS = model_of(*loop())
SQRT = helper.make_node("Sqrt", ["pixels"], ["dense"])
ADD = helper.make_node("Add", ["pixels", "w"], ["dense"])
HOSTILE = {
    "a loop": (ENDLESS, "Constant"),
    "a loop alone": (model_of(loop()[-1]), "Loop"),
    "a loop under the name of another operator": (
        model_of(helper.make_node("Sqrt", ["pixels"], ["dense"], body=loop()[-1].attribute[0].g)),
        "a nested graph",
    ),
    "several nested graphs": (
        model_of(helper.make_node("Sqrt", ["pixels"], ["dense"], bodies=[loop()[-1].attribute[0].g])),
        "a nested graph",
    ),
    "a function": (
        model_of(
            SQRT,
            functions=[
                helper.make_function(
                    "own", "Sqrt", ["a"], ["b"], [helper.make_node("Sqrt", ["a"], ["b"])], [helper.make_opsetid("", 20)]
                )
            ],
        ),
        "a function",
    ),
    "an operator of the runtime's own": (
        model_of(helper.make_node("Gelu", ["pixels"], ["dense"], domain="com.microsoft")),
        "an operator of the domain com.microsoft",
    ),
    "no operator": (model_of(helper.make_node("", ["pixels"], ["dense"])), "a node without an operator"),
    "weights in a file outside of the folder": (
        model_of(ADD, weights=[elsewhere("w", "../secret.bin")]),
        "weights in another file",
    ),
    "weights in the memory of the process": (
        model_of(ADD, weights=[elsewhere("w", "*/_ORT_MEM_ADDR_/*")]),
        "weights in another file",
    ),
    "sparse weights": (model_of(ADD, sparse=[SPARSE]), "sparse weights"),
    "a tensor in a node": (
        model_of(helper.make_node("Sqrt", ["pixels"], ["dense"], value=elsewhere("w", "../secret.bin"))),
        "a tensor in a node",
    ),
    "a sparse tensor in a node": (
        model_of(helper.make_node("Sqrt", ["pixels"], ["dense"], value=SPARSE)),
        "a tensor in a node",
    ),
}


def exported(changed, content):
    """An exported folder with this graph and a manifest that fits."""
    folder = changed()
    (folder / GRAPHS["onnx"]).write_bytes(content)
    seal(folder)
    return folder


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_graph_that_holds_anything_else_is_refused_before_it_runs(changed, kind):
    model, said = HOSTILE[kind]
    folder = exported(changed, model.SerializeToString())
    with pytest.raises(CheckpointError, match=rf"graph\.onnx: contains {said}, which .*; export the model again"):
        EdgeSession.load(folder, threads=1)


def test_a_graph_of_allowed_operators_is_loaded(changed):
    inside = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    EdgeSession.load(exported(changed, model_of(ADD, weights=[inside]).SerializeToString()), threads=1)


def message(*fields):
    """A protocol buffer of length-delimited fields, as (number, content)."""
    return b"".join(varint(number << 3 | 2) + varint(len(content)) + content for number, content in fields)


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def test_nothing_hides_behind_repeated_fields_that_readers_join(tmp_path):
    """A second graph, a second name of an operator, or a second value of an attribute is joined to the first."""
    file = tmp_path / "g.onnx"
    good = message((4, b"Sqrt"))
    nested = message((6, message((1, message((4, b"Loop"))))))
    for node in (
        message((4, b"Sqrt"), (4, b"Loop")),
        message((4, b"Loop"), (4, b"Sqrt")),
        message((4, b"Sqrt"), (5, b""), (5, nested)),
        message((4, b"Sqrt"), (7, b""), (7, b"own")),
        message((4, b"Sqrt"), (5, b""), (5, message((5, b"")))),
    ):
        file.write_bytes(message((7, message((1, good))), (7, message((1, node)))))
        assert len(onnx.load_from_string(file.read_bytes()).graph.node) == 2
        with pytest.raises(CheckpointError, match="which exports of this version do not"):
            check_operators(file, "onnx")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "*/_ORT_MEM_ADDR_/*", "weights.bin"])
def test_weights_in_another_file_are_found_wherever_the_graph_lists_them(tmp_path, location):
    file = tmp_path / "g.onnx"
    inside = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    harmless = model_of(ADD, weights=[inside]).SerializeToString()
    hostile = model_of(ADD, weights=[inside, elsewhere("w", location)]).SerializeToString()
    for content in (hostile, harmless + hostile):  # readers join the two
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="contains weights in another file, which exports"):
            check_operators(file, "onnx")
    file.write_bytes(harmless)
    check_operators(file, "onnx")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (varint(7 << 3 | 3) + varint(7 << 3 | 4), "wire type 3"),
        (varint(7 << 3 | 2) + varint(5) + b"1234", "longer than its message"),
        (varint(7 << 3 | 5) + b"123", "longer than its message"),
        (b"\x80" * 5 + b"\1", "a number that does not end"),
        (b"\x08" + b"\x80" * 10 + b"\1", "a number that does not end"),
        (varint(2**32 + (7 << 3 | 2)) + varint(0), "a field of number"),
        (varint(0 << 3 | 2) + varint(0), "a field of number 0"),
        (message((7, message((1, message((4, b"A" * 257)))))), "the name of an operator is too long"),
        (message((7, message((1, message((4, b"\xff")))))), "invalid start byte"),
        (message((7, b"\x08\0" * 2**20)), "more than 1,048,576 fields"),
    ],
)
def test_what_is_no_model_is_refused_with_the_reason(tmp_path, content, why):
    (tmp_path / "g.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"g\.onnx: cannot be loaded \(.*{why}.*\); export the model again"):
        check_operators(tmp_path / "g.onnx", "onnx")


def run_of(content):
    """Everything that a model read by the library would run or read, in the words of the check; None if it is none."""
    try:
        model = onnx.load_from_string(content)
    except Exception:  # of protocol buffers, of several kinds
        return None
    found = {"a function"} if model.functions else set()
    for node in model.graph.node:
        found.add(node.op_type or "a node without an operator")
        if node.domain:
            found.add(f"an operator of the domain {node.domain}")
        for each in node.attribute:
            if each.HasField("g") or each.graphs:
                found.add("a nested graph")
            if each.HasField("t") or each.tensors or each.HasField("sparse_tensor") or each.sparse_tensors:
                found.add("a tensor in a node")
    if any(each.external_data for each in model.graph.initializer):
        found.add("weights in another file")
    if model.graph.sparse_initializer:
        found.add("sparse weights")
    return found


SMALL = model_of(*loop(), weights=[elsewhere("w", "w")], sparse=[SPARSE]).SerializeToString()


def found_in(content):
    try:
        return set(operators._onnx_operators(io.BytesIO(content)))
    except ValueError:
        return None


@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=4), st.integers(0, 40))
def test_no_change_of_bytes_hides_from_the_check_what_the_library_reads(changes, cut):
    content = bytearray(SMALL)
    for place, byte in changes:
        content[place] = byte
    content = bytes(content[: len(content) - cut])
    read, found = run_of(content), found_in(content)
    assert read is None or found is None or read <= found
    if not changes and not cut:
        assert read == found


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content):
    read, found = run_of(content), found_in(content)
    assert read is None or found is None or read <= found


IR = '<?xml version="1.0"?>\n{}<net name="g" version="11"><layers>{}</layers></net>'


@pytest.mark.parametrize(
    ("doctype", "layers", "said"),
    [
        ("", '<layer id="0" type="Loop"/>', "contains Loop, which"),
        ("", '<layer type="Add"><body><layers><layer type="If"/></layers></body></layer>', "contains If, which"),
        ("", '<layer type="&#76;oop"/>', "contains Loop, which"),
        ("", '<layer type="add"/>', "contains add, which"),
        ("", "<layer/>", "contains a layer without a type, which"),
        ("", '<layer type="Add" type="Loop"/>', "duplicate attribute"),
        ('<!DOCTYPE net [<!ENTITY e "Loop">]>', '<layer type="&e;"/>', "it has a document type"),
        ("", '<layer type="Add">', "mismatched tag"),
        ("", "\0", "not well-formed"),
    ],
)
def test_layers_of_openvino_are_found_however_they_are_written(tmp_path, doctype, layers, said):
    file = tmp_path / "graph.xml"
    file.write_text(IR.format(doctype, layers), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"graph\.xml: .*{said}.*export the model again"):
        check_operators(file, "openvino")
    file.write_text(IR.format("", '<layer type="Add"/><!-- <layer type="Loop"/> -->'), encoding="utf-8")
    check_operators(file, "openvino")


@given(st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()))
def test_a_type_of_any_text_is_found(text):
    content = IR.format("", f"<layer type={quoteattr(text)}/>").encode()
    assert list(operators._openvino_operators(io.BytesIO(content))) == [text]


def test_ir_in_another_encoding_hides_nothing(tmp_path):
    file = tmp_path / "graph.xml"
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        file.write_bytes(IR.format("", '<layer type="Loop"/>').encode(encoding))
        with pytest.raises(CheckpointError, match=r"cannot be loaded|contains Loop"):
            check_operators(file, "openvino")


def test_a_description_of_any_size_is_not_parsed(tmp_path):
    file = tmp_path / "graph.xml"
    with file.open("wb") as handle:
        handle.write(b"<net a='")
        handle.truncate(operators.MAX_XML_BYTES + 1)
    with pytest.raises(CheckpointError, match="it has 16,777,217 bytes; at most 16,777,216 are read"):
        check_operators(file, "openvino")


def test_a_loop_of_openvino_is_refused_before_it_runs(changed):
    folder = changed(runtime="openvino")
    source = folder.parent / "loop.onnx"
    onnx.save(ENDLESS, source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        convert_to_openvino(source, folder / GRAPHS["openvino"])
    seal(folder)
    with pytest.raises(CheckpointError, match=r"graph\.xml: contains (Loop|TensorIterator), which"):
        EdgeSession.load(folder, threads=1)


def test_a_file_that_is_missing_is_refused(exported_folder, tmp_path):
    shutil.copytree(exported_folder, tmp_path / "copy")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        check_operators(tmp_path / "copy" / "none.onnx", "onnx")
