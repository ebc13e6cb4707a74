"""How exported models judge real ceramics, unseen: python benchmarks/export_accuracy.py --data DIR --out RUN

References and queries are draws of protocol.py, of specimens that the references do not show. The model is compared as
it is exported, without recognising surfaces. 8 bits are calibrated on the references alone. Results are stored in
RUN/answers.jsonl as they are computed, so an interrupted run continues; after a change of method take another RUN.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from answers import Answers
from protocol import SETS, Draw, draw, some
from rich.progress import track
from sklearn.metrics import f1_score, roc_auc_score

from fusion_diff import DiffusionModel, ReferenceSet, load_microstructure_data
from fusion_diff.edge import EdgeSession
from fusion_diff.edge.exported import GRAPHS
from fusion_diff.errors import ExportError
from fusion_diff.export.parity import ALPHA
from fusion_diff.export.portable import portable
from fusion_diff.export.run import export_model
from fusion_diff.judging import judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol import Image

    from fusion_diff import Inspection, Micrograph

PRECISIONS = ("fp32", "int8")
QUERIES = 40
"""Micrographs inspected per draw, chosen at random."""


class Learned:
    """A model that learns from the references of a draw, and judges its queries, when it is first asked."""

    def __init__(self, model: DiffusionModel, drawn: Draw) -> None:
        self.model = model
        self.queries = some(drawn.queries, QUERIES, drawn.seed)
        self.images = drawn.references

    @cached_property
    def references(self) -> ReferenceSet:
        return ReferenceSet.from_micrographs(
            read(self.images),
            ["authentic" if image.authentic else "other" for image in self.images],
            authentic="authentic",
            groups=[image.group for image in self.images],
        )

    @cached_property
    def verdicts(self) -> list[Inspection]:
        self.model.enroll(self.references)
        enrolment, _ = portable(self.model)
        return [
            judge(self.model, enrolment, each, alpha=ALPHA, purify=False, detect_attacks=False)
            for each in read(self.queries)
        ]


def compared(learned: Learned, runtime: str, precision: str, threads: int) -> dict[str, Any]:
    """Export a model, and return how the export's verdicts differ from the model's."""
    expected = learned.verdicts
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "exported"
        try:
            done = export_model(
                learned.model, folder, runtime=runtime, int8=precision == "int8", references=learned.references
            )
        except ExportError as error:
            return {"refused": str(error)}
        session = EdgeSession.load(folder, device="CPU", threads=threads)
        micrographs = read(learned.queries)
        started = time.process_time()
        found = [session.judge(each, alpha=ALPHA) for each in micrographs]
        seconds = time.process_time() - started
    truth = [not image.authentic for image in learned.queries]
    return {
        "exact": done.exact,
        "parts": len(done.losses),
        "differences": [abs(one.score - other.score) for one, other in zip(found, expected, strict=True)],
        "turned": sum((one.score < 0.5) != (other.score < 0.5) for one, other in zip(found, expected, strict=True)),
        "expected": figures(truth, expected),
        "found": figures(truth, found),
        "ms": 1000 * seconds / len(found),
    }


def figures(truth: Sequence[bool], found: Sequence[Inspection]) -> tuple[float, float]:
    """Return macro-F1 at a score of 0.5, and AUROC."""
    scores = np.asarray([each.score for each in found])
    return f1_score(truth, scores < 0.5, average="macro"), roc_auc_score(truth, -scores)


def read(images: Sequence[Image]) -> list[Micrograph]:
    return [load_microstructure_data(image.path, crop_data_bar=False) for image in images]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="fusion-diff-v1-ceramic")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--shots", nargs="+", type=int, default=[10])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runtimes", nargs="+", choices=list(GRAPHS), default=list(GRAPHS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # each export says what it lacks
    kept = Answers(options.out / "answers.jsonl")
    model = DiffusionModel.from_pretrained(options.model)
    sha256 = model.sha256  # of the model as it is given; enrolled, it has none
    rows = []
    draws = [
        (index, drawn)
        for name in options.sets
        for index, task in enumerate(SETS[name](options.data))
        for shots in options.shots
        for seed in range(options.seeds)
        if (drawn := draw(task, shots, seed)) is not None
    ]
    for index, drawn in track(draws, "draws"):
        learned = Learned(model, drawn)
        for runtime, precision in product(options.runtimes, PRECISIONS):
            about = {
                "model": sha256,
                "set": drawn.task.name,
                "task": index,
                "shots": drawn.shots,
                "seed": drawn.seed,
                "runtime": runtime,
                "precision": precision,
                "threads": options.threads,
            }
            rows.append(kept.get(about, partial(compared, learned, runtime, precision, options.threads)))
    print(table(rows))
    (options.out / "table.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return one line per set, number of shots, runtime and precision: means over draws."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["set"], row["shots"], row["runtime"], row["precision"]].append(row)
    lines = [
        "| set | shots | runtime | precision | draws | refused | parts in fp32 | median difference | greatest | "
        "other side of 0.5 | model: F1 / AUROC | exported | processor ms a micrograph |",
        "|" + "---|" * 13,
    ]
    for (name, shots, runtime, precision), found in groups.items():
        good = [row for row in found if "refused" not in row]
        if not good:
            lines.append(f"| {name} | {shots} | {runtime} | {precision} | {len(found)} | {len(found)} |" + " |" * 7)
            continue
        differences = np.concatenate([row["differences"] for row in good])
        exact = f"{np.mean([len(row['exact']) for row in good]):.1f} of {good[0]['parts']}" if good[0]["parts"] else ""
        pairs = [np.mean([row[key] for row in good], axis=0) for key in ("expected", "found")]
        said = [f"{f1:.3f} / {auroc:.3f}" for f1, auroc in pairs]
        lines.append(
            f"| {name} | {shots} | {runtime} | {precision} | {len(found)} | {len(found) - len(good)} | {exact} | "
            f"{np.median(differences):.2g} | {differences.max():.2g} | "
            f"{sum(row['turned'] for row in good)} of {len(differences)} | {said[0]} | {said[1]} | "
            f"{np.mean([row['ms'] for row in good]):.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
