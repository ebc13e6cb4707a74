"""Scaling of enrolment and inspection on a CPU: python benchmarks/enrolment.py --counts 10 50 200 --json FILE

Uses procedural references, half of them authentic, ten per group. Varied are the number of references, the number of
classes (with 40 references) and the size of references (with 10). Enrolment time includes encoding and learning.
Inspection is of one unseen micrograph of 224 x 224 pixels, with torch. Processor time is reported with wall-clock time,
because the latter depends on other programs; --busy starts some. Lines are fitted to processor time by least squares.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from fusion_diff import DiffusionModel, Micrograph, ReferenceSet
from fusion_diff.synthetic import FLAWS, generate

SIDE, MEMBERS, FEW = 224, 40, 10
INSPECTIONS = 5


def drawn(seed: int, side: int, flaw: str) -> Micrograph:
    pixels = generate(5_000_000 + seed, size=side, material="alumina", flaw=flaw, lot=seed // 10).pixels
    return Micrograph.from_array(pixels, name=f"{flaw}-{seed}")


def references(count: int, classes: int, side: int) -> ReferenceSet:
    others = FLAWS[: classes - 1]
    labels = ["sound" if index % 2 == 0 else others[index // 2 % len(others)] for index in range(count)]
    micrographs = [drawn(index, side, label) for index, label in enumerate(labels)]
    groups = [str(index // 10) for index in range(count)]
    return ReferenceSet.from_micrographs(micrographs, labels, authentic="sound", groups=groups)


def measure(model: DiffusionModel, case: dict[str, int], *, reconstruction: bool) -> dict[str, float]:
    """Return the seconds and processor time of enrolment, and the lowest processor time of an inspection."""
    known, sample = references(**case), drawn(10**6, SIDE, "sound")
    started, processor = time.perf_counter(), time.process_time()
    model.enroll(known, reconstruction=reconstruction)
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    least = float("inf")
    for _ in range(INSPECTIONS):
        began = time.process_time()
        model.inspect(sample)
        least = min(least, time.process_time() - began)
    return {"seconds": seconds, "processor_s": processor, "inspection_processor_ms": 1000 * least}


def fitted(rows: list[dict[str, float]], over: str) -> str:
    """Return the lines fitted to the rows: fixed cost, and cost per additional unit."""
    x = np.asarray([row[over] for row in rows], dtype=float)
    lines = []
    for figure, unit in (("processor_s", "s"), ("inspection_processor_ms", "ms")):
        slope, start = np.polyfit(x, [row[figure] for row in rows], 1)
        lines.append(f"{start:.2f} {unit} + {slope:.4g} {unit} each")
    return f"over {over}: enrolling {lines[0]}; inspecting {lines[1]}"


def compute() -> None:
    """Use one processor until terminated."""
    while True:
        sum(range(10**6))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="*", type=int, default=[10, 50, 200], help="references")
    parser.add_argument("--classes", nargs="*", type=int, default=[2, 4, 7], help="the authentic one among them")
    parser.add_argument("--sides", nargs="*", type=int, default=[224, 448, 672], help="of the references, in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", type=int, default=0, help="other processes that compute meanwhile")
    parser.add_argument("--reconstruction", action="store_true", help="with the diffusion path")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    for _ in range(options.busy):
        multiprocessing.get_context("spawn").Process(target=compute, daemon=True).start()
    model = DiffusionModel.from_pretrained()
    measure(model, {"count": 4, "classes": 2, "side": SIDE}, reconstruction=options.reconstruction)  # warm up
    plans = {
        "count": [{"count": count, "classes": 2, "side": SIDE} for count in options.counts],
        "classes": [{"count": MEMBERS, "classes": classes, "side": SIDE} for classes in options.classes],
        "pixels": [{"count": FEW, "classes": 2, "side": side} for side in options.sides],
    }
    print("| references | classes | side, pixels | seconds | processor time, s | inspection, processor ms |")
    print("|---|---|---|---|---|---|")
    rows, fits = [], []
    for over, cases in plans.items():
        own = []
        for case in track(cases, f"over {over}"):
            took = measure(model, case, reconstruction=options.reconstruction)
            own.append(case | {"pixels": case["side"] ** 2, "over": over} | took)
            row = "| {count} | {classes} | {side} | {seconds:.1f} | {processor_s:.1f} | {inspection_processor_ms:.0f} |"
            print(row.format_map(own[-1]), flush=True)
        rows += own
        if len(own) > 1:
            fits.append(fitted(own, over))
    print("\n" + "\n".join(fits))
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "fits": fits}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
