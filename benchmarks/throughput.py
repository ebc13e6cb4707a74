"""Throughput compared with the machine's peak: python benchmarks/throughput.py EXPORTED --json throughput.json

For each batch size, reports the graph's rate in tiles and in multiply-adds (counted by torch on the exported graph), as
a share of the rate of one large matrix product in onnxruntime, measured in turn. Then whole 16-bit TIFFs are inspected
end to end, each in a separate process. Seconds, processor time and peak memory are compared with those of a ResNet-50
(random weights, fp32, onnxruntime) that classifies the same tiles.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import tifffile
import torch
from latency import CNNS, OURS, Logits, write
from torch.utils.flop_counter import FlopCounterMode
from transformers import ResNetForImageClassification

from fusion_diff import DiffusionModel
from fusion_diff.edge.exported import DESCRIPTION, Exported
from fusion_diff.edge.runtime import open_graph
from fusion_diff.edge.session import is_exported
from fusion_diff.export.graph import ScoringGraph
from fusion_diff.export.portable import portable
from fusion_diff.micrograph.tiles import Grid
from fusion_diff.pretrain.builtin import builtin_reference_set
from fusion_diff.synthetic import generate

if TYPE_CHECKING:
    from collections.abc import Callable

PEAK_SIDE = 1536
WHOLE = (
    "import sys, warnings; warnings.simplefilter('ignore'); from fusion_diff.edge import EdgeSession;"
    "from fusion_diff.micrograph import load_microstructure_data as load;"
    "EdgeSession.load(sys.argv[1], device='CPU', threads=int(sys.argv[3])).inspect(load(sys.argv[2]));"
    "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
)

WHOLE_CNN = (
    "import sys, onnxruntime; from fusion_diff.micrograph import load_microstructure_data as load;"
    "from fusion_diff.micrograph.tiles import Grid; options = onnxruntime.SessionOptions();"
    "options.intra_op_num_threads = int(sys.argv[3]);"
    "session = onnxruntime.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider']);"
    "image = load(sys.argv[2]); grid = Grid.of(image.height, image.width, tile=224, stride=8);"
    "[session.run(None, {'pixels': grid.read(image, tile)[None]}) for tile in grid.tiles()];"
    "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
)
"""The baseline pipeline: every tile through the CNN, one by one."""


def peak_call(threads: int) -> Callable[[], Any]:
    """Return a call of one large matrix product."""
    float32, shape = onnx.TensorProto.FLOAT, [PEAK_SIDE, PEAK_SIDE]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "peak",
        [onnx.helper.make_tensor_value_info("x", float32, shape)],
        [onnx.helper.make_tensor_value_info("y", float32, shape)],
        [onnx.numpy_helper.from_array(np.random.default_rng(0).random(shape, dtype=np.float32), "w")],
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # as in `edge.runtime`
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).random(shape, dtype=np.float32)
    return lambda: session.run(None, {"x": x})


def multiply_adds(model: DiffusionModel) -> float:
    """Return the number of multiply-adds for one tile."""
    enrolment, _ = portable(model)
    graph = ScoringGraph(model.encoder, enrolment.verifier, enrolment.mean_tokens).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        graph(torch.rand(1, 3, graph.encoder.tile, graph.encoder.tile), torch.ones(1, graph.side, graph.side))
    return counter.get_total_flops() / 2


def write_tiff(path: Path, side: int) -> None:
    drawn = generate(3, size=512, material="alumina", flaw="crack").pixels
    times = -(-side // 512)
    levels = np.rint(np.tile(drawn, (times, times)) * 65535).astype(np.uint16)
    tifffile.imwrite(path, levels[:side, :side])


def whole(program: str, graph: Path, tiff: Path, threads: int) -> dict[str, float]:
    """Inspect a TIFF in a separate process, and return its time and memory."""
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-c", program, str(graph), str(tiff), str(threads)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        "processor_s": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mb": int(done.stdout) / 1024,  # the kernel's figure for a child process includes its parent
    }


def expect_exported(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Exit with an error unless a folder is an exported model."""
    if not is_exported(folder):
        inside = " or ".join(str(file.parent) for file in sorted(folder.glob(f"*/{DESCRIPTION}")))
        parser.error(f"{folder}: not an exported model; give {inside or 'a folder written by `fusion-diff export`'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path, help="folder written by `fusion-diff export`")
    parser.add_argument("--model", default="fusion-diff-v1-ceramic", help="what was exported")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--sides", nargs="*", type=int, default=[224, 1024, 2048, 4096], help="of the TIFFs, in pixels")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    expect_exported(parser, options.exported)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    model = DiffusionModel.from_pretrained(options.model)
    if model.enrolment is None:
        model.enroll(builtin_reference_set())
    work = multiply_adds(model)
    exported = Exported.read(options.exported)
    graph = open_graph(options.exported, exported.runtime, "CPU", options.threads)
    peak = peak_call(options.threads)
    calls: dict[int, Callable[[], Any]] = {0: peak}
    for batch in options.batches:
        pixels = np.random.default_rng(2).random((batch, 3, exported.tile, exported.tile), dtype=np.float32)
        keep = np.ones((batch, exported.side, exported.side), dtype=np.float32)
        calls[batch] = lambda pixels=pixels, keep=keep: graph(pixels, keep)
    least = dict.fromkeys(calls, float("inf"))
    # Processor time, which other programs do not affect; with one thread it equals the time taken.
    clock = time.process_time if options.threads == 1 else time.perf_counter
    for _ in range(options.rounds):
        for key, call in calls.items():
            started = clock()
            call()
            least[key] = min(least[key], clock() - started)
    rate = PEAK_SIDE**3 / least.pop(0)
    print(f"{work / 1e9:.2f} G multiply-adds a tile; peak {rate / 1e9:.0f} G/s in {options.threads} threads, fp32\n")
    print("| batch | tiles/s | share of peak |\n|---|---|---|")
    rows = []
    for batch, seconds in least.items():
        rows.append({"batch": batch, "tiles_per_s": batch / seconds, "share_of_peak": batch * work / seconds / rate})
        print("| {batch} | {tiles_per_s:.1f} | {share_of_peak:.0%} |".format_map(rows[-1]))
    result: dict[str, Any] = {"rows": rows, "multiply_adds": work, "peak_per_s": rate, "threads": options.threads}
    if options.sides:
        heads = ["side, pixels", "tiles", "pipeline", "seconds", "processor time, s", "peak memory, MB"]
        print("\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    result["whole"] = []
    with tempfile.TemporaryDirectory() as temporary:
        tiff, cnn = Path(temporary) / "large.tif", Path(temporary) / "resnet-50.onnx"
        write(Logits(ResNetForImageClassification(CNNS["resnet-50"])), cnn)
        for side in options.sides:
            write_tiff(tiff, side)
            tiles = len(list(Grid.of(side, side, tile=exported.tile, stride=exported.stride).tiles()))
            for pipeline, program, graph in ((OURS, WHOLE, options.exported), ("resnet-50", WHOLE_CNN, cnn)):
                took = whole(program, graph, tiff, options.threads)
                result["whole"].append({"side": side, "tiles": tiles, "pipeline": pipeline} | took)
                row = "| {side} | {tiles} | {pipeline} | {seconds:.1f} | {processor_s:.1f} | {peak_mb:.0f} |"
                print(row.format_map(result["whole"][-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
