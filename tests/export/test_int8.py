"""What is rounded to 8 bits: values that go into products, and no others; and the runtime computes with them."""

from itertools import pairwise

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.edge.exported import GRAPHS
from fusion_diff.encoder.global_path import TILE
from fusion_diff.export.int8 import BUDGETS, Quantiser, choices
from fusion_diff.pretrain.builtin import builtin_reference_set

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


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=12))
def test_parts_are_rounded_from_the_least_loss_up_to_the_budget(lost):
    tries = choices(lost)
    assert len(tries) <= len(BUDGETS)
    for groups in tries:
        total = np.sqrt(sum(lost[name] ** 2 for name in groups))
        assert len(groups) > 0
        assert total <= BUDGETS[0] + 1e-9
        assert all(lost[left] >= max(lost[name] for name in groups) for left in set(lost) - set(groups))
    assert all(set(fewer) < set(more) for more, fewer in pairwise(tries))


def test_nothing_is_rounded_where_every_part_loses_too_much():
    assert choices({"a": 0.3, "b": 0.5}) == []
    assert choices({"a": 0.01, "b": 0.5}) == [["a"]]
