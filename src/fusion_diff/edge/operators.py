"""The operators that a graph may contain: those that `fusion-diff export` writes, with weights in the graph's own file.

Whoever can alter an exported model can renew its manifest, too. A runtime would run any graph, also one with a loop
that never ends, and some versions read weights from any file that the graph names. So the file is searched for its
operators and for weights kept elsewhere before a runtime opens it. None of the operators allowed here holds a graph of
its own or repeats a part of the graph. How much memory and time a graph takes is not bounded.

The small machines of the edge have no package that reads ONNX, so the fields of its protocol buffers are walked here.
Weights are skipped and nothing is kept, so that memory does not grow with the file.
Sources: protobuf.dev/programming-guides/encoding; onnx.proto of ONNX 1.18.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO
from xml.parsers import expat

from fusion_diff.errors import CheckpointError
from fusion_diff.printable import paragraph

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPERATORS = {
    "onnx": frozenset(
        (
            "Add", "Clip", "Concat", "Conv", "DequantizeLinear", "Div", "Expand", "Gather", "Gelu", "Gemm",
            "LayerNormalization", "MatMul", "Mul", "Pad", "Pow", "QuantizeLinear", "ReduceMax", "ReduceSum", "Reshape",
            "Resize", "Shape", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze",
        )
    ),
    "openvino": frozenset(
        (
            "Add", "Broadcast", "Clamp", "Concat", "Const", "Convert", "Convolution", "FakeQuantize", "Gather",
            "Gelu", "GroupConvolution", "Interpolate", "MVN", "MatMul", "Multiply", "Pad", "Parameter", "Power",
            "ReduceMax", "ReduceSum", "Reshape", "Result", "ScaledDotProductAttention", "ShapeOf", "Slice", "Sqrt",
            "Squeeze", "Subtract", "Transpose", "Unsqueeze", "VariadicSplit",
        )
    ),
}  # fmt: skip
"""Operators by runtime; a test compares them with those of every kind of export."""

MAX_FIELDS = 2**20
"""Largest number of fields outside of weights; exports have about 10,000."""
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_WEIGHTS, _GRAPH_SPARSE_WEIGHTS = 1, 5, 15
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_GRAPHS, _ATTRIBUTE_TENSORS = (6, 11), (5, 10, 22, 23)
_TENSOR_EXTERNAL = 13  # where in which file; `data_location` means nothing without it
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4 are groups, which ONNX does not use
_LONGEST = 256
MAX_XML_BYTES = 2**24
"""Largest description of a graph for OpenVINO, whose weights are in a file of their own; exports take 1 MB."""
_CHUNK = 2**16


def check_operators(file: Path, runtime: str) -> None:
    """Refuse a graph with anything that exports do not contain: other operators, nested graphs, weights elsewhere.

    Args:
        file: the graph, in the format of its runtime.
        runtime: `onnx` or `openvino`.

    Raises:
        CheckpointError: there is something else in it, or the file is damaged.
    """
    if (foreign := foreign_operator(file, runtime)) is not None:
        raise CheckpointError(
            f"{file}: contains {foreign}, which exports of this version do not, so it may have been tampered with; "
            "export the model again with this version"
        )


def foreign_operator(file: Path, runtime: str) -> str | None:
    """Return the first thing in a graph that exports do not contain, in printable words; None if there is none.

    Args:
        file: the graph, in the format of its runtime.
        runtime: `onnx` or `openvino`.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        with file.open("rb") as handle:
            found = _onnx_operators(handle) if runtime == "onnx" else _openvino_operators(handle)
            foreign = next((operator for operator in found if operator not in OPERATORS[runtime]), None)
    except (OSError, ValueError, expat.ExpatError) as error:
        raise CheckpointError(f"{file}: cannot be loaded ({paragraph(error, 300)}); export the model again") from error
    return None if foreign is None else paragraph(foreign, 80)


def _onnx_operators(file: BinaryIO) -> Iterator[str]:
    """Yield the operator of each node, and a description of everything else that could be run or read.

    Fields may be repeated in any message, and readers differ in which one counts, so each is yielded.

    Raises:
        ValueError: the file is damaged.
    """
    walk = _Walk(file)
    for number, start, end in walk.fields(0, file.seek(0, 2)):
        if number == _MODEL_FUNCTIONS:
            yield "a function"
        elif number == _MODEL_GRAPH:
            for inner, first, last in walk.fields(start, end):
                if inner == _GRAPH_NODE:
                    yield from walk.node(first, last)
                elif inner == _GRAPH_WEIGHTS and any(
                    number == _TENSOR_EXTERNAL for number, *_ in walk.fields(first, last)
                ):
                    yield "weights in another file"
                elif inner == _GRAPH_SPARSE_WEIGHTS:
                    yield "sparse weights"


class _Walk:
    """Walks the fields of protocol buffers in a file, message by message."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MAX_FIELDS

    def node(self, start: int, end: int) -> Iterator[str]:
        """Yield what a node runs, and a description of what it holds.

        Raises:
            ValueError: the message is damaged.
        """
        named = False
        for number, first, last in self.fields(start, end):
            if number == _NODE_OPERATOR:
                named = True
                yield self._text(first, last) or "a node without an operator"
            elif number == _NODE_DOMAIN and (domain := self._text(first, last)):
                yield f"an operator of the domain {domain}"
            elif number == _NODE_ATTRIBUTE:
                for inner, *_ in self.fields(first, last):
                    if inner in _ATTRIBUTE_GRAPHS:
                        yield "a nested graph"
                    elif inner in _ATTRIBUTE_TENSORS:
                        yield "a tensor in a node"
        if not named:
            yield "a node without an operator"

    def fields(self, position: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield number, start and end of the strings and messages among the fields of a message; skip the others.

        Raises:
            ValueError: the message is damaged, or there are more than `MAX_FIELDS` fields in all.
        """
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"more than {MAX_FIELDS:,} fields")
            self._file.seek(position)
            head = self._file.read(min(15, end - position))  # the longest tag and the longest number
            tag, used = _varint(head, 0, 5)
            number, wire = tag >> 3, tag & 7
            if not 1 <= number < 2**29:
                raise ValueError(f"a field of number {number}")
            length = 0
            if wire == _VARINT:
                used = _varint(head, used, 10)[1]
            elif wire == _BYTES:
                length, used = _varint(head, used, 5)
            elif wire in (_FIXED32, _FIXED64):
                length = 4 if wire == _FIXED32 else 8
            else:
                raise ValueError(f"a field of wire type {wire}")
            start, position = position + used, position + used + length
            if position > end:
                raise ValueError("a field that is longer than its message")
            if wire == _BYTES:
                yield number, start, position

    def _text(self, start: int, end: int) -> str:
        if end - start > _LONGEST:
            raise ValueError("the name of an operator is too long")
        self._file.seek(start)
        return self._file.read(end - start).decode("utf-8")


def _varint(data: bytes, at: int, longest: int) -> tuple[int, int]:
    """Return a number of variable length, and the position behind it.

    Raises:
        ValueError: it is cut off, or takes more than `longest` bytes.
    """
    value = 0
    for index, byte in enumerate(data[at : at + longest]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("a number that does not end")


def _openvino_operators(file: BinaryIO) -> Iterator[str]:
    """Yield the type of each layer of OpenVINO's IR, whatever it is nested in.

    Raises:
        ValueError: the file is too large, or there is a document type, which could declare entities.
        ExpatError: this is not XML in UTF-8.
    """
    size = file.seek(0, 2)
    if size > MAX_XML_BYTES:
        raise ValueError(f"it has {size:,} bytes; at most {MAX_XML_BYTES:,} are read")
    file.seek(0)
    found: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "layer":
            found.append(attributes.get("type", "a layer without a type"))

    def doctype(*_: object) -> None:
        raise ValueError("it has a document type")

    parser = expat.ParserCreate("UTF-8")
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = doctype
    while chunk := file.read(_CHUNK):
        parser.Parse(chunk, False)
        yield from found
        found.clear()
    parser.Parse(b"", True)
    yield from found
