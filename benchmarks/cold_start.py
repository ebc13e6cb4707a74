"""Cold start of exported models, in parts: python benchmarks/cold_start.py EXPORTED [EXPORTED ...]

Each start is a new process, which stops its processor time after every part. The first part, starting Python, importing
NumPy and the runtime, and reading the file's bytes, is the least that any program needs; the ratio compares the total
with it. The models take turns; of each part the least of `--rounds` starts is printed, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from throughput import expect_exported, write_tiff

from fusion_diff.edge.exported import Exported

PARTS = ("runtime and file", "own imports", "digests", "graph", "micrograph", "first verdict")
START = """
import json, sys, time
from pathlib import Path
runtime, folder, file, threads = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
import numpy
if runtime == "onnx":
    import onnxruntime
else:
    import openvino
file.read_bytes()
stops = [time.process_time()]
stop = lambda: stops.append(time.process_time())
from fusion_diff.checkpoint import verify
from fusion_diff.edge.exported import Exported
from fusion_diff.edge.runtime import open_graph
from fusion_diff.edge.session import EdgeSession
from fusion_diff.micrograph import load_microstructure_data
stop()
verify(folder)
stop()
exported = Exported.read(folder)
session = EdgeSession(exported, open_graph(folder, runtime, "CPU", threads))
stop()
micrograph = load_microstructure_data(file)
stop()
session.judge(micrograph, alpha=0.1)
stop()
print(json.dumps(stops))
"""
"""What `EdgeSession.load(folder).inspect(load_microstructure_data(file))` does, stopped after every part."""


def start(folder: Path, file: Path, threads: int) -> np.ndarray:
    """Return the processor time of each part of one cold start, in milliseconds."""
    words = [sys.executable, "-c", START, Exported.read(folder).runtime, str(folder), str(file), str(threads)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return 1000 * np.diff([0.0, *json.loads(done.stdout.splitlines()[-1])])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path, nargs="+", help="folders written by `fusion-diff export`")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    for folder in options.exported:
        expect_exported(parser, folder)
    least = {folder: np.full(len(PARTS), np.inf) for folder in options.exported}
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "tile.tif"
        write_tiff(file, 224)
        for _ in range(options.rounds):
            for folder in least:
                least[folder] = np.minimum(least[folder], start(folder, file, options.threads))
    print("| exported | " + " | ".join(PARTS) + " | total | ratio |\n" + "|---" * (len(PARTS) + 3) + "|")
    for folder, parts in least.items():
        cells = " | ".join(f"{part:.0f}" for part in parts)
        print(f"| {folder.name} | {cells} | {parts.sum():.0f} | {parts.sum() / parts[0]:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
