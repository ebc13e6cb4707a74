"""Detection of micrographs out of scope: python benchmarks/scope.py --data DIR --json FILE

Uses references of the few-shot protocol. Unseen specimens of the same set are in scope; images of all other sets and of
`ceramic_sem_gallery` are out of scope. Reported are the AUROC of the strangeness, the share of out-of-scope images that
is flagged, and the share of the set's own unseen specimens that is flagged by mistake.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from eye import Eye
from protocol import SETS, Image, draw, some
from rich.progress import track
from sklearn.metrics import roc_auc_score

from fusion_diff import DiffusionModel
from fusion_diff.errors import FusionDiffError
from fusion_diff.micrograph.discover import IMAGE_SUFFIXES


def gallery(data: Path, eye: Eye, count: int) -> list[Image]:
    """Return a sample of images of ceramics that are in no set, and say how many of it cannot be read."""
    found = sorted(p for p in (data / "ceramic_sem_gallery").rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    chosen, read = some([Image(path, False, path.parent.name) for path in found], count, 0), []
    for image in chosen:
        try:
            eye.look(image)
        except FusionDiffError:
            continue
        read.append(image)
    if lost := len(chosen) - len(read):
        print(f"{lost} of {len(chosen)} images of the gallery cannot be read and are left out", file=sys.stderr)
    return read


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=40, help="of each set of strangers and of the set's own, at most")
    parser.add_argument("--model", default="fusion-diff-v1-ceramic")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    eye = Eye(DiffusionModel.from_pretrained(options.model))
    tasks = {name: SETS[name](options.data)[0] for name in SETS}
    others = {name: some(task.references, options.images, 0) for name, task in tasks.items()}
    others["ceramic_sem_gallery"] = gallery(options.data, eye, options.images)
    if not others["ceramic_sem_gallery"]:
        parser.error(f"{options.data / 'ceramic_sem_gallery'}: no micrograph to read; it takes images of any ceramics")
    rows = []
    print("| enrolled | strangers | AUROC | flagged | own flagged | draws |\n|---|---|---|---|---|---|")
    for name, task in tasks.items():
        found: dict[str, list[tuple[float, float, float]]] = {}
        for seed in track(range(options.seeds), name):
            drawn = draw(task, options.shots, seed)
            if drawn is None:
                continue
            verifier = eye.enrol(drawn.references)

            def strangeness(images: list[Image]) -> np.ndarray:
                scaled = (verifier.heads.scale(eye.look(image).tokens) for image in images)  # noqa: B023
                return np.asarray([float(verifier.scope.distances(tokens).mean()) for tokens in scaled])  # noqa: B023

            own = strangeness(some(drawn.queries, options.images, 0))
            for stranger, images in others.items():
                if stranger == name:
                    continue
                strange = strangeness(images)
                truth = np.r_[np.zeros(len(own)), np.ones(len(strange))]
                flagged = [float((values > verifier.scope.limit).mean()) for values in (strange, own)]
                auroc = float(roc_auc_score(truth, np.r_[own, strange]))
                found.setdefault(stranger, []).append((auroc, *flagged))
        for stranger, figures in found.items():
            means = dict(zip(("auroc", "flagged", "own_flagged"), np.mean(figures, axis=0).tolist(), strict=True))
            rows.append({"enrolled": name, "strangers": stranger, "draws": len(figures)} | means)
            print(
                f"| {name} | {stranger} | {means['auroc']:.3f} | {means['flagged']:.2f} | {means['own_flagged']:.2f} "
                f"| {len(figures)} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
