"""Localisation of flaws by the evidence map: python benchmarks/localisation.py --data DIR --json FILE

Measured on unseen specimens of the few-shot protocol with flaws marked by hand. Reported are AUPRO (per-region overlap
averaged over regions, integrated to a false positive rate of 0.3 and divided by 0.3; Bergmann et al. 2021), the share
of marked micrographs with a listed region that overlaps the mark, and the intersection over union of listed regions and
mark.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from eye import Eye
from protocol import SETS, draw
from rich.progress import track
from scipy.ndimage import label

from fusion_diff import DiffusionModel, load_microstructure_data
from fusion_diff.micrograph.tiles import Grid
from fusion_diff.verdict.result import EvidenceMap

LIMIT = 0.3
LEVELS = 200


def aupro(maps: list[np.ndarray], marks: list[np.ndarray]) -> float:
    """Return the area under the curve of per-region overlap against false positive rate up to LIMIT, in [0, 1]."""
    background = np.concatenate([values[~mark] for values, mark in zip(maps, marks, strict=True)])
    levels = np.quantile(background, 1 - np.linspace(0, LIMIT, LEVELS))
    overlaps = []
    for values, mark in zip(maps, marks, strict=True):
        regions, count = label(mark, structure=np.ones((3, 3)))
        for number in range(1, count + 1):
            inside = np.sort(values[regions == number])
            overlaps.append(1 - np.searchsorted(inside, levels, side="left") / len(inside))
    return float(np.trapezoid(np.mean(overlaps, axis=0), dx=1 / (LEVELS - 1)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["ebc_crack", "ferrite_tile"])
    parser.add_argument("--shots", nargs="+", type=int, default=[5, 10, 25])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=60, help="unseen micrographs of each side, at most")
    parser.add_argument("--model", default="fusion-diff-v1-ceramic")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    eye, rows = Eye(DiffusionModel.from_pretrained(options.model)), []
    print("| set | shots | references | AUPRO | flaws touched | IoU | draws |\n|---|---|---|---|---|---|---|")
    for name in options.sets:
        task = SETS[name](options.data)[0]
        for shots in options.shots:
            figures: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
            for seed in track(range(options.seeds), f"{name}, {shots} shots"):
                drawn = draw(task, shots, seed)
                if drawn is None:
                    continue
                order = np.random.default_rng(seed).permutation(len(drawn.queries))
                mixed = [drawn.queries[index] for index in order]
                chosen = [i for i in mixed if i.authentic][: options.queries]
                chosen += [i for i in mixed if not i.authentic][: options.queries]
                for marked in figures:
                    verifier = eye.enrol(drawn.references, marks=marked)
                    maps, marks, touched, shared = [], [], [], []
                    for image in chosen:
                        micrograph = load_microstructure_data(image.path, crop_data_bar=False)
                        size = micrograph.height, micrograph.width
                        grid = Grid.of(*size, tile=eye.encoder.tile, stride=8)
                        bag = eye.look(image)
                        evidence = verifier.evidence(verifier.heads.maps(bag.tokens, bag.residual))
                        values = EvidenceMap(evidence.view(grid.rows, grid.columns).numpy(), grid.scale, *size).native()
                        mark = image.read_mark(*size)
                        if mark is None and not image.authentic:
                            continue  # an unmarked flaw would count as background
                        maps.append(values)
                        marks.append(np.zeros(size, dtype=bool) if mark is None else mark)
                        if mark is not None:
                            listed = values > verifier.region_threshold
                            touched.append(bool((listed & mark).any()))
                            shared.append(float((listed & mark).sum() / (listed | mark).sum()))
                    figures[marked].append((aupro(maps, marks), float(np.mean(touched)), float(np.mean(shared))))
            if not figures[False]:
                print(f"{name}: no draw with {shots} shots, left out", file=sys.stderr)
                continue
            for marked, found in figures.items():
                means = dict(zip(("aupro", "touched", "iou"), np.mean(found, axis=0).tolist(), strict=True))
                rows.append({"set": name, "shots": shots, "marked": marked, "draws": len(found)} | means)
                print(
                    f"| {name} | {shots} | {'flaws marked' if marked else 'labels alone'} | {means['aupro']:.3f} "
                    f"| {means['touched']:.2f} | {means['iou']:.2f} | {len(found)} |",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
