"""Writes the graph as ONNX and as OpenVINO IR."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

import torch

from fusion_diff.dependencies import needed
from fusion_diff.edge.exported import INPUTS, OUTPUTS, WEIGHTS
from fusion_diff.errors import ExportError
from fusion_diff.printable import paragraph
from fusion_diff.whole import naming

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fusion_diff.export.graph import ScoringGraph


FOLDED = 2**24
"""Elements of the largest constants that are folded; a bank has 1,024 tokens of some hundred channels."""


def write_onnx(graph: ScoringGraph, file: Path) -> None:
    """Trace a graph and write it as ONNX, for any number of tiles.

    Raises:
        DependencyError: the packages that write ONNX are not installed.
    """
    needed("exporting", "onnx", "onnx")
    needed("exporting", "onnxscript", "onnx")
    from onnxscript.optimizer import fold_constants

    side, tile = graph.side, graph.encoder.tile
    # Two tiles: a dimension of size 1 would be traced as a constant.
    examples = torch.full((2, 3, tile, tile), 0.5), torch.ones(2, side, side)
    count = torch.export.Dim("tiles")
    with warnings.catch_warnings(), silenced(logging.getLogger("torch.onnx")), torch.no_grad():
        warnings.simplefilter("ignore")  # they are about the exporter's internals
        program = torch.onnx.export(
            graph.eval(),
            examples,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=({0: count}, {0: count}),
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # it is None only where the exporter that is not dynamo is asked for
        # The exporter folds small constants only. Lengths of a bank's tokens, left to be computed, would keep the bank
        # in the file twice and its products out of 8 bits.
        fold_constants(program.model, input_size_limit=FOLDED, output_size_limit=FOLDED)
        with naming(file):
            program.save(file)


@contextmanager
def silenced(logger: logging.Logger) -> Iterator[None]:
    """Show only errors of a logger within the block."""
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def convert_to_openvino(source: Path, target: Path) -> None:
    """Convert an ONNX graph to `target` (XML), with its weights in a file beside it.

    Raises:
        DependencyError: OpenVINO is not installed.
        ExportError: the graph cannot be written, as where the disk is full.
    """
    openvino = needed("exporting", "openvino", "openvino")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Convert first: OpenVINO 2026.4 gives wrong results with 8 bits when it compiles an ONNX file directly.
    # The contents, because a path with a comma would be taken for several.
    converted = openvino.convert_model(BytesIO(source.read_bytes()))
    try:
        openvino.save_model(converted, target, compress_to_fp16=False)
    except RuntimeError as error:  # the only type that OpenVINO raises; it does not say why
        raise ExportError(
            f"not exported: OpenVINO cannot write its files ({paragraph(error, 200)}); free some space where the "
            "exported model is to go, and check the limits on users and files (quota, ulimit -f)"
        ) from error
    target.with_suffix(".bin").replace(target.with_name(WEIGHTS))
