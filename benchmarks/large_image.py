"""Memory and time of one very large micrograph: python benchmarks/large_image.py --side 20000

Writes a 16-bit TIFF of a procedural ceramic with that side, inspects it with the embedded model in a separate process,
and reports the peak resident memory of that process as measured by the operating system.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from fusion_diff.synthetic import generate

PATCH = 1000


def write(path: Path, side: int, compression: str | None) -> None:
    patches = [generate(seed, size=PATCH, material="alumina", flaw="sound", lot=0).pixels for seed in range(4)]
    levels = [np.rint(patch * 65535).astype(np.uint16) for patch in patches]

    def rows():
        for top in range(0, side, 250):
            band = np.concatenate(
                [levels[(top // PATCH + left) % 4][top % PATCH : top % PATCH + 250] for left in range(side // PATCH)],
                axis=1,
            )
            yield np.ascontiguousarray(band)

    tifffile.imwrite(
        path, rows(), shape=(side, side), dtype=np.uint16, rowsperstrip=250, compression=compression, bigtiff=False
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20000, help=f"a multiple of {PATCH}")
    parser.add_argument("--compression", choices=["zlib", "lzw"], help="stored uncompressed when omitted")
    parser.add_argument("--model", default="fusion-diff-v1-ceramic")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.side < PATCH or options.side % PATCH:
        parser.error(f"--side {options.side}: give a multiple of {PATCH}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.tif"
        write(path, options.side, options.compression)
        program = (
            "import sys, torch; torch.set_num_threads(int(sys.argv[3])); "
            "from fusion_diff import DiffusionModel, load_microstructure_data; "
            "i = DiffusionModel.from_pretrained(sys.argv[2]).inspect(load_microstructure_data(sys.argv[1])); "
            "print(i.score, i.decision, len(i.regions), i.evidence.values.shape)"
        )
        started = time.perf_counter()
        arguments = [sys.executable, "-W", "ignore", "-c", program, str(path), options.model, str(options.threads)]
        subprocess.run(arguments, check=True)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print("| side | compression | peak memory, MB | seconds |\n|---|---|---|---|")
    print(f"| {options.side} | {options.compression or 'none'} | {peak:.0f} | {seconds:.0f} |")
    if options.json:
        result = {"side": options.side, "peak_mb": peak, "seconds": seconds, "threads": options.threads}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
