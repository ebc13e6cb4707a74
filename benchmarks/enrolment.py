"""Time to enrol references on a CPU: python benchmarks/enrolment.py --counts 10 50 200

Procedural references of 224 x 224 pixels, half of them authentic, ten to a group; encoding and learning are counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from fusion_diff import DiffusionModel, Micrograph, ReferenceSet
from fusion_diff.synthetic import generate


def references(count: int, side: int) -> ReferenceSet:
    labels = ["sound" if index % 2 == 0 else "crack" for index in range(count)]
    micrographs = [
        Micrograph.from_array(
            generate(5_000_000 + index, size=side, material="alumina", flaw=label, lot=index // 10).pixels,
            name=f"{label}-{index}",
        )
        for index, label in enumerate(labels)
    ]
    return ReferenceSet.from_micrographs(
        micrographs, labels, authentic="sound", groups=[str(index // 10) for index in range(count)]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="+", type=int, default=[10, 50, 200])
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reconstruction", action="store_true", help="with the diffusion path")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = DiffusionModel.from_pretrained()
    model.enroll(references(4, options.side), reconstruction=options.reconstruction)  # warm up
    rows = []
    print("| references | seconds |\n|---|---|")
    for count in options.counts:
        enrolment = model.enroll(references(count, options.side), reconstruction=options.reconstruction)
        rows.append({"references": count, "seconds": enrolment.seconds})
        print(f"| {count} | {enrolment.seconds:.1f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
