"""Simulated error rates of decisions: python benchmarks/error_rate.py --out RUN

Real sets have too few specimens to see whether an error rate holds. Here each specimen is one micrograph of random
tokens, its own shift and, on the other side, a flaw in some of them, so new specimens can be drawn at will. Every draw
enrols references of both sides with the verifier itself and asks how often new specimens are called the other side.
Each row is of as many draws as asked for; `±` is one standard error over draws.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from fusion_diff.fewshot.bags import Bag
from fusion_diff.fewshot.decision import decide
from fusion_diff.fewshot.figures import auroc
from fusion_diff.fewshot.verifier import Verifier

TOKENS, CHANNELS, FLAWED = 60, 12, 3
"""Tokens of a specimen, their channels, and how many of them a flaw covers."""
NEW = 15
"""New specimens of each side in a draw."""


@dataclass(frozen=True)
class Case:
    """How many specimens of each side are enrolled, at which error rate, and how strong flaws are (0 is none)."""

    authentic: int
    others: int
    alpha: float
    flaw: float


CASES = [
    Case(authentic, others, alpha, flaw)
    for authentic, others, alpha in ((3, 3, 0.25), (9, 9, 0.1), (19, 9, 0.1), (19, 19, 0.05))
    for flaw in (0.0, 0.8, 1.5)
]


def specimen(rng: np.random.Generator, flaw: float) -> Bag:
    """Return a specimen as tokens; all of one draw differ by a shift of their own."""
    tokens = rng.normal(size=(TOKENS, CHANNELS)) + 0.4 * rng.normal(size=CHANNELS)
    tokens[:FLAWED] += flaw
    return Bag(torch.from_numpy(tokens).half().float(), torch.zeros(TOKENS, 0))


def simulate(case: Case, seed: int) -> list[float]:
    """Return what one draw gives: authentic rejected, others accepted, decided, AUROC cross-fitted and of new ones."""
    rng = np.random.default_rng([seed, case.authentic, case.others, round(100 * case.flaw)])
    bags = [specimen(rng, flaw) for flaw in [0.0] * case.authentic + [case.flaw] * case.others]
    labels = ["authentic"] * case.authentic + ["other"] * case.others
    verifier = Verifier.fit(bags, labels, "authentic", [str(index) for index in range(len(bags))])
    new = [[specimen(rng, flaw) for _ in range(NEW)] for flaw in (0.0, case.flaw)]
    fused = [[verifier.fused(verifier.heads.maps(bag.tokens, bag.residual))[0] for bag in side] for side in new]
    said = [[decide(verifier.p_values(score), case.alpha, case.authentic) for score in side] for side in fused]
    return [
        said[0].count("not authentic") / NEW,
        said[1].count("authentic") / NEW,
        1 - sum(side.count("inconclusive") for side in said) / (2 * NEW),
        auroc(verifier.inside, verifier.outside),
        auroc(np.asarray(fused[0]), np.asarray(fused[1])),
    ]


def main() -> None:
    """Simulate every case, print the table, and write it beside the figures of every draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = [
        "| specimens | alpha | flaw | authentic rejected | others accepted | decided | AUROC cross-fitted | new ones |",
        "|" + "---|" * 8,
    ]
    with (options.out / "error_rate.jsonl").open("w", encoding="utf-8") as file:
        for case in CASES:
            about = f"{case.authentic} and {case.others}, alpha {case.alpha:g}, flaw {case.flaw:g}"
            found = np.asarray([simulate(case, seed) for seed in track(range(options.draws), about)])
            file.write(json.dumps({"case": vars(case), "draws": found.tolist()}) + "\n")
            mean, error = found.mean(0), found.std(0, ddof=1) / np.sqrt(len(found))
            rates = " | ".join(f"{mean[index]:.3f} ± {error[index]:.3f}" for index in (0, 1))
            lines.append(
                f"| {case.authentic} and {case.others} | {case.alpha:g} | {case.flaw:g} | {rates} | {mean[2]:.2f} | "
                f"{mean[3]:.3f} | {mean[4]:.3f} |"
            )
    report = "\n".join(lines) + "\n"
    (options.out / "error_rate.md").write_text(report, encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
