"""Detection and effect of poisoned references: python benchmarks/poisoning.py --data DIR --out RUN

Uses references of the few-shot protocol. Either some labels are flipped, or four references of one class carry the same
stamp of 12 x 12 pixels. Reported are the share of poisoned references that the audit flags, the share of the others it
flags by mistake, and macro-F1 and AUROC on unseen specimens. The latter are given with all references, without the
flagged ones (`dropped`), and with these at half weight (`half`: the mean of both log-odds). Differences are paired by
draw, with the standard error of their mean, because draws differ more than these variants. Results are stored in
RUN/poisoning.jsonl as they are computed, so an interrupted run continues. After a change of method or of the audit take
another RUN. --table makes RUN/poisoning.md from them at any time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from answers import Answers, change
from eye import Eye, answer
from protocol import SETS, Draw, draw, some
from rich.progress import track
from sklearn.metrics import f1_score, roc_auc_score

from fusion_diff import DiffusionModel, load_microstructure_data
from fusion_diff.enrolment import Enrolment
from fusion_diff.fewshot.bags import Bag
from fusion_diff.fewshot.verifier import Verifier
from fusion_diff.micrograph import Micrograph
from fusion_diff.perception import encode, surface, thin
from fusion_diff.trust.poisoning import audit_enrolment

STAMPED = 4
STAMP = 12
SIDES = ("authentic", "other")
WAYS = ("all", "dropped", "half")
FLIPS = (0, 1, 2, 3)


class Poisoned:
    """A draw with some poisoned references."""

    def __init__(self, eye: Eye, drawn: Draw, options: argparse.Namespace) -> None:
        self.eye, self.drawn, self.options = eye, drawn, options
        self.labels = [SIDES[not image.authentic] for image in drawn.references]
        self.bags = [self.look(image, reference=True) for image in drawn.references]
        self.micrographs: list[Micrograph] | None = None
        self.bad: set[int] = set()

    def look(self, image, *, reference: bool = False) -> Bag:
        return replace(thin(self.eye.look(image, reference=reference), self.options.tokens), mark=None)

    def flip(self, count: int) -> None:
        """Flip the labels of `count` references."""
        self.bad = set(np.random.default_rng(self.drawn.seed).permutation(len(self.labels))[:count].tolist())
        for index in self.bad:
            self.labels[index] = SIDES[self.labels[index] == SIDES[0]]

    def stamp(self) -> None:
        """Stamp some references of one class with a black-and-white pattern."""
        rng = np.random.default_rng(self.drawn.seed)
        cells = rng.integers(0, 2, (STAMP // 2, STAMP // 2)) * 255
        pattern = np.kron(cells, np.ones((2, 2), dtype=int)).astype(np.uint8)
        self.micrographs = [load_microstructure_data(i.path, crop_data_bar=False) for i in self.drawn.references]
        first = len(self.micrographs) // 2
        self.bad = set(range(first, min(first + STAMPED, len(self.micrographs))))
        for index in self.bad:
            pixels = np.array(self.micrographs[index].levels)
            top, left = (int(rng.integers(0, side - STAMP)) for side in pixels.shape[:2])
            pixels[top : top + STAMP, left : left + STAMP] = pattern if pixels.ndim == 2 else pattern[..., None]
            stamped = self.micrographs[index] = Micrograph.from_array(pixels)
            bag, _ = encode(stamped, self.eye.encoder, twins=True)
            self.bags[index] = thin(replace(bag, keypoints=surface(stamped)), self.options.tokens)

    def enrolment(self, keep: list[int]) -> Enrolment:
        labels = tuple(self.labels[index] for index in keep)
        groups = tuple(self.drawn.references[index].group for index in keep)
        bags = tuple(self.bags[index] for index in keep)
        paths, detector = self.eye.encoder.paths, self.eye.detector
        return Enrolment(
            authentic=SIDES[0],
            names=tuple(str(index) for index in keep),
            labels=labels,
            groups=groups,
            paths=paths,
            bags=bags,
            condition=torch.zeros(1, 1),
            references_sha256="",
            verifier=Verifier.fit(bags, labels, SIDES[0], groups, paths, detector),
            pixel_sizes_um=(None,) * len(keep),
            detector=detector,
        )

    def scores(self, enrolment: Enrolment) -> tuple[list[float], list[bool]]:
        """Return the log-odds of a fixed sample of the queries, and which of them are not authentic."""
        queries = some(self.drawn.queries, self.options.queries, 0)
        found = answer(enrolment.verifier, [self.look(image) for image in queries])
        return np.asarray(found["scores"]).tolist(), [not image.authentic for image in queries]

    def judged(self) -> dict[str, Any]:
        """Audit the references, and judge the queries with all of them and without the flagged ones."""
        everything = list(range(len(self.labels)))
        whole = self.enrolment(everything)
        findings = [each for each in audit_enrolment(whole, self.micrographs) if each.grave]
        flagged = {each.index for each in findings}
        scores, truth = self.scores(whole)
        kept = [index for index in everything if index not in flagged]
        both = len({self.labels[index] for index in kept}) == 2
        dropped = self.scores(self.enrolment(kept))[0] if flagged and both else scores
        return {
            "bad": sorted(self.bad),
            "references": len(everything),
            "findings": [(each.index, each.kind, round(each.strength, 3)) for each in findings],
            "truth": truth,
            "all": scores,
            "dropped": dropped,
        }


def figures(row: dict[str, Any]) -> dict[str, float]:
    """Return the recall and false alarm rate of the audit, and macro-F1 and AUROC of each variant."""
    bad, flagged = set(row["bad"]), {index for index, _, _ in row["findings"]}
    scores = {way: np.asarray(row[way]) for way in WAYS[:2]}
    scores[WAYS[2]] = (scores["all"] + scores["dropped"]) / 2
    out = {
        "recall": len(flagged & bad) / len(bad) if bad else float("nan"),
        "false": len(flagged - bad) / (row["references"] - len(bad)),
    }
    for way, values in scores.items():
        out[f"f1 {way}"] = float(f1_score(row["truth"], values > 0, average="macro", zero_division=0))
        out[f"auroc {way}"] = float(roc_auc_score(row["truth"], values))
    return out


def gain(pairs: list[tuple[float, float]]) -> str:
    """Return how far the second exceeds the first in points, paired by draw."""
    return change([100 * (second - first) for first, second in pairs], 1)


def table(rows: list[dict[str, Any]]) -> str:
    found: dict[tuple[str, str], dict[tuple[str, int], dict[str, float]]] = defaultdict(dict)
    for row in rows:
        found[row["set"], row["poisoned"]][row["task"], row["seed"]] = figures(row)
    heads = ["set", "poisoned", "draws", "recall", "false alarms", *(f"{way}: F1 / AUROC" for way in WAYS)]
    heads += ["cost of poison, F1 points", *(f"{way}: gain, F1 points" for way in WAYS[1:])]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (name, poisoned), draws in sorted(found.items()):
        mean = {key: float(np.mean([each[key] for each in draws.values()])) for key in next(iter(draws.values()))}
        clean = found[name, f"{FLIPS[0]} flipped"]
        recall = "" if np.isnan(mean["recall"]) else f"{mean['recall']:.2f}"
        cells = [name, poisoned, str(len(draws)), recall, f"{mean['false']:.3f}"]
        cells += [f"{mean[f'f1 {way}']:.3f} / {mean[f'auroc {way}']:.3f}" for way in WAYS]
        pairs = [(each["f1 all"], clean[key]["f1 all"]) for key, each in draws.items() if key in clean]
        cells.append(gain(pairs) if pairs else "")
        cells += [gain([(each["f1 all"], each[f"f1 {way}"]) for each in draws.values()]) for way in WAYS[1:]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def ask(name: str, eye: Eye, answers: Answers, options: argparse.Namespace) -> None:
    """Compute all missing results of one set."""
    eye.bags.clear()
    for seed in track(range(options.seeds), name):
        for number, task in enumerate(SETS[name](options.data)[: options.tasks]):
            drawn = draw(task, options.shots, seed)
            if drawn is None:
                continue
            for count in (*FLIPS, None):

                def judged(drawn: Draw = drawn, count: int | None = count) -> dict[str, Any]:
                    poisoned = Poisoned(eye, drawn, options)
                    poisoned.stamp() if count is None else poisoned.flip(count)
                    return poisoned.judged()

                poisoned = f"{STAMPED} stamped" if count is None else f"{count} flipped"
                about = {"set": name, "task": number, "seed": seed, "poisoned": poisoned, "model": eye.sha256}
                about |= {key: getattr(options, key) for key in ("shots", "queries", "tokens")}
                answers.get(about, judged)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an earlier run in it is continued")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=["ebc_crack", "jun_glaze"])
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=1, help="tasks of a set, at most")
    parser.add_argument("--queries", type=int, default=120, help="of each draw, at most")
    parser.add_argument("--tokens", type=int, default=8192, help="of each image, at most; fewer are faster")
    parser.add_argument("--model", default="fusion-diff-v1-ceramic")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="ask nothing more, and print what there is")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    eye, answers = Eye(DiffusionModel.from_pretrained(options.model)), Answers(options.out / "poisoning.jsonl")
    for name in () if options.table else options.sets:
        ask(name, eye, answers, options)
    asked = {"model": eye.sha256} | {key: getattr(options, key) for key in ("shots", "queries", "tokens")}
    rows = [row for row in answers.rows.values() if row["set"] in options.sets and asked.items() <= row.items()]
    (options.out / "poisoning.md").write_text(table(rows), encoding="utf-8")
    (options.out / "poisoning.json").write_text(
        json.dumps([{k: row[k] for k in ("set", "task", "seed", "poisoned")} | figures(row) for row in rows], indent=1)
        + "\n",
        encoding="utf-8",
    )
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
