"""Analysis of errors: python benchmarks/misses.py --data DIR --run RUN

Uses the results of a run of fewshot.py. The first table shows the macro-F1 lost by the threshold: with the actual
threshold, with as many rejected as there are flaws, and with the best possible threshold. The latter two need the truth
of the queries. The second table shows how many ranking errors are due to few micrographs, which are missed with any
references.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from answers import read
from fewshot_tables import OURS, said
from protocol import SETS, draw
from sklearn.metrics import f1_score

WORST = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="folder that fewshot.py wrote")
    parser.add_argument("--method", default=OURS)
    options = parser.parse_args()
    stored = read(options.run / "answers.jsonl")
    answers = [a for a in stored if a["method"] == options.method and not a.get("set_sha256")]
    if not answers:
        parser.error(f"{options.run} holds no answers of {options.method} on sets of --data")
    if len({answer["model"] for answer in answers}) > 1:
        parser.error(f"{options.run} holds answers of several models")
    tasks = {name: SETS[name](options.data) for name in {each["set"] for each in answers}}

    losses, misses = defaultdict(list), defaultdict(lambda: defaultdict(list))
    for answer in answers:
        about = answer["set"], answer["shots"]
        truth, scores = np.asarray(answer["truth"]), np.asarray(answer["scores"])
        losses[about].append([f1_score(truth, each, average="macro") for each in _verdicts(answer, truth, scores)])
        if len(tasks[answer["set"]]) == 1:  # with several tasks, the authentic class differs between them
            queries = draw(tasks[answer["set"]][0], answer["shots"], answer["seed"]).queries
            for image, flawed, score in zip(queries, truth, scores, strict=True):
                beyond = scores[~truth] >= score if flawed else scores[truth] <= score
                misses[about][image.path].append(float(beyond.mean()))

    print("| set | shots | draws | macro-F1 | as many rejected as there are flaws | best threshold |\n|" + "---|" * 6)
    for (name, shots), rows in sorted(losses.items()):
        figures = " | ".join(f"{value:.3f}" for value in np.mean(rows, axis=0))
        print(f"| {name} | {said(shots)} | {len(rows)} | {figures} |")
    print(f"\n| set | shots | micrographs | share of all wrong order that the {WORST} worst make |\n|" + "---|" * 4)
    for (name, shots), each in sorted(misses.items()):
        found = sorted(((np.mean(values), path) for path, values in each.items()), reverse=True)
        wrong = sum(value for value, _ in found)
        share = f"{sum(value for value, _ in found[:WORST]) / wrong:.2f}" if wrong else ""
        print(f"| {name} | {said(shots)} | {len(found)} | {share} |")
        print(
            "\n".join(f"  {value:.2f} {path.parent.name}/{path.name}" for value, path in found[:WORST]), file=sys.stderr
        )
    return 0


def _verdicts(answer: dict, truth: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """Return the verdicts with the actual threshold, with the true number rejected, and with the best threshold."""
    steps = np.sort(scores)
    best = max((steps[1:] + steps[:-1]) / 2, key=lambda step: f1_score(truth, scores > step, average="macro"))
    return [np.asarray(answer["verdicts"]), scores > np.quantile(scores, 1 - truth.mean()), scores > best]


if __name__ == "__main__":
    sys.exit(main())
