"""AUROC of each method by kind of flaw: python benchmarks/by_flaw.py --data DIR --run RUN

Each kind of flaw of `ferrite_tile` against flawless tiles, from the results of a run of fewshot.py.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from answers import read
from protocol import SETS, draw
from sklearn.metrics import roc_auc_score


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="folder that fewshot.py wrote")
    parser.add_argument("--shots", type=int, default=10)
    options = parser.parse_args()
    with (options.data / "ferrite_tile" / "groups.csv").open(encoding="utf-8", newline="") as file:
        kinds = {Path(row["file"]).name: row["class"] for row in csv.DictReader(file)}
    task = SETS["ferrite_tile"](options.data)[0]
    figures = defaultdict(lambda: defaultdict(list))
    answers = read(options.run / "answers.jsonl")
    if len({answer["model"] for answer in answers} - {""}) > 1:  # baselines have none
        parser.error(f"{options.run} holds answers of several models")
    for answer in answers:
        if (answer["set"], answer["shots"]) != ("ferrite_tile", options.shots):
            continue
        queries = draw(task, options.shots, answer["seed"]).queries
        kind, scores = np.asarray([kinds[image.path.name] for image in queries]), np.asarray(answer["scores"])
        for flaw in sorted(set(kind) - {"free"}):
            chosen = (kind == flaw) | (kind == "free")
            figures[answer["method"]][flaw].append(float(roc_auc_score(kind[chosen] == flaw, scores[chosen])))
    flaws = sorted({flaw for row in figures.values() for flaw in row})
    print("| method | " + " | ".join(flaws) + " |\n|" + "---|" * (1 + len(flaws)))
    for method, row in figures.items():
        print(f"| {method} | " + " | ".join(f"{np.mean(row[flaw]):.3f}" for flaw in flaws) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
