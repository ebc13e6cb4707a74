"""What is rounded to 8 bits: values that go into products, and no others; and the runtime computes with them."""

import onnx
import onnxruntime
import pytest

from fusion_diff.builtin import builtin_reference_set
from fusion_diff.edge.exported import GRAPHS
from fusion_diff.encoder.global_path import TILE
from fusion_diff.export.int8 import Quantiser

PRODUCTS = ("Conv", "Gemm", "MatMul")


@pytest.fixture(scope="module")
def rounded(exported_folder, tmp_path_factory):
    """The exported graph with all parts in 8 bits."""
    folder = tmp_path_factory.mktemp("int8")
    references = [each.micrograph for each in builtin_reference_set()][:2]
    quantiser = Quantiser.of(exported_folder / GRAPHS["onnx"], folder / "ranges.json", references, tile=TILE)
    quantiser.write(folder / "graph.onnx", quantiser.groups)
    return folder / "graph.onnx"


def test_only_what_goes_into_products_is_rounded(rounded):
    nodes = onnx.load(rounded).graph.node
    multiplied = {name for node in nodes if node.op_type in PRODUCTS for name in node.input}
    values = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    assert len(values) > 100
    assert values <= multiplied


def test_distances_are_computed_in_8_bits_and_banks_are_stored_once(rounded, exported_folder, tmp_path):
    exact = onnx.load(exported_folder / GRAPHS["onnx"]).graph
    distances = [node for node in exact.node if node.op_type == "Gemm"]
    assert distances
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "as run.onnx"), 3
    onnxruntime.InferenceSession(rounded, options, providers=["CPUExecutionProvider"])
    run = [node.op_type for node in onnx.load(tmp_path / "as run.onnx").graph.node]
    assert run.count("QGemm") == len(distances)
    banks = {node.input[1] for node in distances}
    assert not banks & {each.name for each in onnx.load(rounded).graph.initializer}
