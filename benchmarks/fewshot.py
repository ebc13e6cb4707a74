"""Few-shot accuracy on real ceramics, on specimens never seen: python benchmarks/fewshot.py --data DIR --json FILE

Every method gets the same draws (see protocol.py). Reported are macro-F1 at the decision each method itself makes
(threshold from the references alone) and AUROC: mean over seeds, with a 95 % interval of that mean.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from protocol import SETS, Draw, Image, draw
from rich.progress import track
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

from fusion_diff import DiffusionModel, load_microstructure_data
from fusion_diff.fewshot.bags import Bag, Scale, top_mean
from fusion_diff.fewshot.crossfit import folds
from fusion_diff.fewshot.evidence.nearest_neighbour import NearestNeighbourEvidence
from fusion_diff.fewshot.verifier import Verifier
from fusion_diff.micrograph.tiles import Grid
from fusion_diff.perception import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Seen:
    """An image as the methods see it, encoded once."""

    bag: Bag
    pooled: NDArray[np.float32]  # block 10 and last block of the ImageNet CNN, averaged over the first tile's span


def look(model: DiffusionModel, image: Image) -> Seen:
    micrograph = load_microstructure_data(image.path, crop_data_bar=False)
    mark = None
    if image.mark is not None:
        from PIL import Image as Picture

        mark = np.asarray(Picture.open(image.mark).convert("L")) > 0
        mark = mark if mark.any() else None
    bag, _ = encode(micrograph, model.encoder, mark=mark)
    grid = Grid.of(micrograph.height, micrograph.width, tile=model.encoder.tile, stride=8)
    tiles = torch.from_numpy(np.stack([grid.read(micrograph, tile) for tile in grid.tiles()]))
    with torch.inference_mode():
        maps, last = model.encoder.local_path(tiles)
    pooled = torch.cat([maps.mean((0, 2, 3)), last.mean((0, 2, 3))])
    return Seen(bag, pooled.numpy())


def fusion_diff(references: list[Seen], queries: list[Seen], drawn: Draw, marks: bool) -> tuple[object, object]:
    """Our verifier; positive log-odds mean not authentic."""
    bags = [Bag(r.bag.tokens, r.bag.residual, r.bag.mark if marks else None) for r in references]
    labels = ["authentic" if image.authentic else "other" for image in drawn.references]
    verifier = Verifier.fit(bags, labels, "authentic", [image.group for image in drawn.references])
    odds = []
    for query in queries:
        fused, _ = verifier.fused(verifier.heads.maps(query.bag.tokens, query.bag.residual))
        odds.append(verifier.calibration.log_odds(fused))
    scores = np.asarray(odds)
    return scores, scores > 0


def linear_probe(references: list[Seen], queries: list[Seen], drawn: Draw) -> tuple[object, object]:
    """Logistic regression on the ImageNet CNN's averaged features; its penalty is chosen by cross-fitting."""
    features = np.stack([r.pooled for r in references])
    centre, spread = features.mean(0), features.std(0) + 1e-6
    features = (features - centre) / spread
    truth = np.asarray([not image.authentic for image in drawn.references])
    parts = folds([image.group for image in drawn.references], ~truth)
    best, best_loss = 0.01, np.inf
    for penalty in (0.001, 0.01, 0.1, 1.0) if parts else ():
        losses = []
        for part in parts or ():
            rest = np.setdiff1d(np.arange(len(truth)), part)
            probe = LogisticRegression(C=penalty, max_iter=1000).fit(features[rest], truth[rest])
            p = probe.predict_proba(features[part])[:, 1].clip(1e-6, 1 - 1e-6)
            losses.extend(-np.where(truth[part], np.log(p), np.log(1 - p)))
        if np.mean(losses) < best_loss:
            best, best_loss = penalty, float(np.mean(losses))
    probe = LogisticRegression(C=best, max_iter=1000).fit(features, truth)
    scores = probe.decision_function((np.stack([q.pooled for q in queries]) - centre) / spread)
    return scores, scores > 0


def nearest_neighbour(references: list[Seen], queries: list[Seen], drawn: Draw) -> tuple[object, object]:
    """PatchCore-style: distance to authentic tokens alone; the threshold is two deviations off the left-out ones."""
    bags = [r.bag for r, image in zip(references, drawn.references, strict=True) if image.authentic]

    def judge(known: list[Bag], asked: list[Bag]) -> list[float]:
        scale = Scale.of([bag.tokens for bag in known])
        head = NearestNeighbourEvidence.fit([Bag(scale(bag.tokens), bag.residual) for bag in known], [])
        return [float(top_mean(head.map(scale(bag.tokens), bag.residual))) for bag in asked]

    scores = np.asarray(judge(bags, [q.bag for q in queries]))
    if len(bags) == 1:
        return scores, np.zeros(len(scores), dtype=bool)  # one reference says nothing of how far others lie
    own = [judge(bags[:i] + bags[i + 1 :], [bags[i]])[0] for i in range(len(bags))]
    return scores, scores > np.mean(own) + 2 * np.std(own, ddof=1)


def interval(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(1.96 * np.std(values, ddof=1) / np.sqrt(len(values))) if len(
        values
    ) > 1 else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds ebc_crack, ferrite_tile, jun_glaze")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 5, 10, 25])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--model", default="fusion-diff-v1-ceramic")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = DiffusionModel.from_pretrained(options.model)
    rows = []
    for name in options.sets:
        tasks = SETS[name](options.data)
        images = {image for task in tasks for image in (*task.references, *(task.queries or ()))}
        seen = {image: look(model, image) for image in track(sorted(images, key=str), f"encoding {name}")}
        marked = any(image.mark for image in images)
        methods: dict[str, Callable[..., tuple[object, object]]] = {
            "FusionDiff": lambda r, q, d: fusion_diff(r, q, d, marks=False),
            **({"FusionDiff, flaws marked": lambda r, q, d: fusion_diff(r, q, d, marks=True)} if marked else {}),
            "linear probe, EfficientNet-Lite0": linear_probe,
            "nearest neighbour, authentic only": nearest_neighbour,
        }
        for shots in options.shots:
            figures, seconds, skipped = defaultdict(list), defaultdict(float), 0
            for seed in track(range(options.seeds), f"{name}, {shots} shots"):
                drawn = [draw(task, shots, seed) for task in tasks]
                skipped += sum(each is None for each in drawn)
                for each in drawn:
                    if each is None:
                        continue
                    references, queries = [seen[i] for i in each.references], [seen[i] for i in each.queries]
                    truth = np.asarray([not image.authentic for image in each.queries])
                    for method, ask in methods.items():
                        started = time.perf_counter()
                        scores, verdicts = ask(references, queries, each)
                        seconds[method] += time.perf_counter() - started
                        figures[method, "auroc"].append(float(roc_auc_score(truth, scores)))
                        figures[method, "macro_f1"].append(float(f1_score(truth, verdicts, average="macro")))
            for method in methods:
                count = len(figures[method, "auroc"])
                if count == 0:
                    continue
                row = {"set": name, "shots": shots, "method": method, "draws": count, "skipped": skipped}
                for figure in ("macro_f1", "auroc"):
                    row[figure], row[f"{figure}_interval"] = interval(figures[method, figure])
                row["seconds"] = seconds[method] / count
                rows.append(row)
                print(
                    f"| {name} | {shots} | {method} | {row['macro_f1']:.3f} ± {row['macro_f1_interval']:.3f} "
                    f"| {row['auroc']:.3f} ± {row['auroc_interval']:.3f} | {count} | {skipped} |",
                    flush=True,
                )
    if options.json:
        options.json.write_text(
            json.dumps({"model_sha256": model.sha256, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
