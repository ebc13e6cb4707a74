"""Latency on one tile, compared with CNNs: python benchmarks/latency.py --json latency.json

Batch 1, 224 x 224 pixels, two threads. All models, runtimes and precisions are called in turn, round after round, so
that other load on the machine affects all of them alike. With --threads 1, processor time is measured, which other
programs do not affect. The CNNs have random weights, which do not change their speed. They are exported and quantised
to 8 bits in the same way, on the same tiles. Timed is the graph: encoder and evidence of FusionDiff, all of a CNN.
The second table profiles a whole inspection in one thread. Each row of the JSON file says what it was measured with:
rows compare where checkpoint, threads, clock and machine agree.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import re
import sys
import tempfile
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from fusion_diff import DiffusionModel, Micrograph, __version__
from fusion_diff.edge import EdgeSession
from fusion_diff.edge.exported import WEIGHTS
from fusion_diff.edge.runtime import open_graph
from fusion_diff.edge.session import is_exported
from fusion_diff.encoder.global_path import TILE
from fusion_diff.export.graph import ScoringGraph
from fusion_diff.export.onnx_file import convert_to_openvino
from fusion_diff.export.portable import portable
from fusion_diff.export.run import export_model
from fusion_diff.micrograph.tiles import Grid
from fusion_diff.pretrain.builtin import builtin_reference_set
from fusion_diff.synthetic import generate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Call = Callable[[], Any]

CNNS = {
    "resnet-50": ResNetConfig(),
    "resnet-18": ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic"),
}
RUNTIMES = ("onnxruntime", "openvino")
OURS = "fusion-diff"


class Logits(nn.Module):
    """A classifier as a graph with one input and one output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(pixels).logits
        return logits


class Tokens(nn.Module):
    """The encoder's tokens only; the exported graph does not compute conditions."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self.encoder(pixels).tokens
        return tokens


def write(network: nn.Module, file: Path) -> None:
    """Export a network with one input in the same way as the product's exporter, for any number of tiles."""
    count = torch.export.Dim("tiles")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (torch.rand(2, 3, TILE, TILE),),
            file,
            input_names=["pixels"],
            output_names=["output"],
            dynamic_shapes=({0: count},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def round_cnn(source: Path, target: Path, tiles: NDArray[np.float32]) -> None:
    """Quantise all products of a CNN to 8 bits, as `export.int8` does, and results as well: a CNN is faster so."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    class Reader:
        waiting = iter(tiles)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            tile = next(self.waiting, None)
            return None if tile is None else {"pixels": tile[None]}

    quantize_static(
        source,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def cnn_call(file: Path, runtime: str, tile: NDArray[np.float32], threads: int) -> Call:
    """Return a call of a CNN's graph."""
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.add_session_config_entry("session.force_spinning_stop", "1")  # as in `edge.runtime`
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"pixels": tile})
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
    core = openvino.Core()
    network = core.read_model(file, file.with_name(WEIGHTS))
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    return lambda: request.infer({"pixels": tile}, share_inputs=True)


def torch_calls(model: DiffusionModel, tile: NDArray[np.float32]) -> dict[tuple[str, str, str], Call]:
    """Return calls of the torch model: a score alone, and with the reconstruction path."""
    enrolment, _ = portable(model)
    graph = ScoringGraph(model.encoder, enrolment.verifier, enrolment.mean_tokens).eval()
    pixels = torch.from_numpy(tile).to(memory_format=torch.channels_last)
    keep = torch.ones(1, graph.side, graph.side)

    @torch.inference_mode()
    def score() -> None:
        graph(pixels, keep)

    @torch.inference_mode()
    def reconstruct() -> None:
        graph(pixels, keep)
        model.reconstruction.residual(pixels, enrolment.condition)

    return {
        (OURS, "torch", "fp32"): score,
        (f"{OURS} with reconstruction", "torch", "fp32"): reconstruct,
    }


def measured_with(checkpoint: str, sha256: str, threads: int, rounds: int) -> dict[str, str | int | None]:
    """Return what tells whether rows are comparable, and when and with which versions they were measured."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.+)", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return {
        "checkpoint": checkpoint,
        "checkpoint_sha256": sha256,
        "threads": threads,
        "rounds": rounds,
        "clock": "processor" if threads == 1 else "wall",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": named[1] if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "version": __version__,
        "torch": torch.__version__,
    }


def interleaved(calls: dict[Any, Call], rounds: int, threads: int) -> dict[Any, list[float]]:
    """Return the milliseconds of each call in each round, after two warm-up rounds.

    With one thread this is processor time, which excludes the time that other programs took.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    times: dict[Any, list[float]] = {key: [] for key in calls}
    for index in range(rounds + 2):
        for key, call in calls.items():
            started = clock()
            call()
            if index >= 2:
                times[key].append(1000 * (clock() - started))
    return times


def prepare(model: DiffusionModel, folder: Path, threads: int, runtimes: list[str]) -> dict[tuple[str, str, str], Call]:
    """Export everything and return the calls."""
    references = builtin_reference_set()
    grids = [Grid.of(TILE, TILE, tile=TILE, stride=8) for _ in references]
    tiles = np.stack(
        [grid.read(each.micrograph, next(grid.tiles())) for grid, each in zip(grids, references, strict=True)]
    )
    tile = np.ascontiguousarray(tiles[:1])
    keep = np.ones((1, grids[0].side, grids[0].side), dtype=np.float32)
    calls: dict[tuple[str, str, str], Call] = {}
    for runtime in runtimes:
        form = "onnx" if runtime == "onnxruntime" else "openvino"
        for precision in ("fp32", "int8"):
            out = folder / f"{OURS}-{form}-{precision}"
            if not is_exported(out):
                done = export_model(model, out, runtime=form, int8=precision == "int8", references=references)
                print(f"{runtime} {precision}: {done.parity}, in fp32 {done.exact}", file=sys.stderr)
            graph = open_graph(out, form, "CPU", threads)
            calls[OURS, runtime, precision] = lambda graph=graph: graph(tile, keep)
    torch.manual_seed(0)
    for name, config in CNNS.items():
        plain, rounded = folder / f"{name}.onnx", folder / f"{name}-int8.onnx"
        write(Logits(ResNetForImageClassification(config)), plain)
        round_cnn(plain, rounded, tiles)
        for runtime in runtimes:
            for precision, file in (("fp32", plain), ("int8", rounded)):
                if runtime == "openvino":
                    convert_to_openvino(file, folder / name / precision / "graph.xml")
                    file = folder / name / precision / "graph.xml"
                calls[name, runtime, precision] = cnn_call(file, runtime, tile, threads)
    return calls


def profile(model: DiffusionModel, folder: Path, rounds: int) -> list[dict[str, float | str]]:
    """Return a profile of the inspection of one tile, in onnxruntime with fp32 and one thread."""
    threads = 1
    write(Tokens(model.encoder), folder / "encoder.onnx")
    pixels = np.rint(generate(7, size=TILE, material="alumina", flaw="crack").pixels * 65535).astype(np.uint16)
    micrograph = Micrograph.from_array(pixels)
    grid = Grid.of(TILE, TILE, tile=TILE, stride=8)
    exported = folder / f"{OURS}-onnx-fp32"
    session = EdgeSession.load(exported, device="CPU", threads=threads)
    graph = open_graph(exported, "onnx", "CPU", threads)
    tile = grid.read(micrograph, next(grid.tiles()))[None]
    keep = np.ones((1, grid.side, grid.side), dtype=np.float32)
    calls = {
        "read": lambda: grid.read(micrograph, next(grid.tiles())),
        "encoder": cnn_call(folder / "encoder.onnx", "onnxruntime", tile, threads),
        "graph": lambda: graph(tile, keep),
        "inspect": lambda: session.judge(micrograph, alpha=0.1),
    }
    least = {name: min(times) for name, times in interleaved(calls, rounds, threads).items()}
    parts = {
        "pre-processing": least["read"],
        "backbone": least["encoder"],
        "evidence": least["graph"] - least["encoder"],
        "post-processing": least["inspect"] - least["graph"] - least["read"],
    }
    return [{"part": name, "ms": value, "share": value / least["inspect"]} for name, value in parts.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fusion-diff-v1-ceramic")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument(
        "--folder", type=Path, help="keep what is exported here, or take it from here; a temporary folder when omitted"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    model = DiffusionModel.from_pretrained(options.model)
    about = measured_with(options.model, model.sha256, options.threads, options.rounds)
    if model.enrolment is None:
        model.enroll(builtin_reference_set())
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        calls = prepare(model, folder, options.threads, options.runtimes)
        image = next(iter(builtin_reference_set())).micrograph
        grid = Grid.of(TILE, TILE, tile=TILE, stride=8)
        calls |= torch_calls(model, grid.read(image, next(grid.tiles()))[None])
        times = interleaved(calls, options.rounds, options.threads)
        parts = profile(model, folder, options.rounds) if "onnxruntime" in options.runtimes else []
    rows = [
        {
            "model": name,
            "runtime": runtime,
            "precision": precision,
            "min_ms": min(ms),
            "median_ms": float(np.median(ms)),
            **about,
        }
        for (name, runtime, precision), ms in times.items()
    ]
    print("| model | runtime | precision | min, ms | median, ms |\n|---|---|---|---|---|")
    for row in rows:
        print("| {model} | {runtime} | {precision} | {min_ms:.1f} | {median_ms:.1f} |".format_map(row))
    if parts:
        print("\n| part of an inspection | min, ms | share |\n|---|---|---|")
        for part in parts:
            print("| {part} | {ms:.1f} | {share:.0%} |".format_map(part))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        if parts:  # always of one thread
            told = [part | about | {"threads": 1, "clock": "processor"} for part in parts]
            options.json.with_suffix(".profile.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
