"""Does the audit find poisoned references, and what do they cost? python benchmarks/poisoning.py --data DIR

References of the few-shot protocol, of which some have their label flipped, or of which four of one class carry the
same stamp of 12 x 12 pixels. Reported: the share of poisoned references that the audit flags, the share of the others
that it flags by mistake, and macro-F1 on unseen specimens with the references as they are, and without those that were
flagged for their label.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from eye import Eye, answer
from protocol import SETS, Draw, draw
from rich.progress import track
from sklearn.metrics import f1_score

from fusion_diff import DiffusionModel, load_microstructure_data
from fusion_diff.enrolment import Enrolment
from fusion_diff.micrograph import Micrograph
from fusion_diff.perception import thin
from fusion_diff.trust.poisoning import audit_enrolment
from fusion_diff.trust.triggers import find_triggers

STAMPED = 4
STAMP = 12
SIDES = ("authentic", "other")


def enrolment_of(eye: Eye, drawn: Draw, flipped: set[int], keep: list[int], tokens: int) -> Enrolment:
    """Enrol some of the references of a draw, with some labels flipped."""
    labels = [SIDES[image.authentic == (index in flipped)] for index, image in enumerate(drawn.references)]
    bags = [replace(thin(eye.look(image, reference=True), tokens), mark=None) for image in drawn.references]
    return Enrolment(
        authentic=SIDES[0],
        names=tuple(str(index) for index in keep),
        labels=tuple(labels[index] for index in keep),
        groups=tuple(drawn.references[index].group for index in keep),
        paths=eye.encoder.paths,
        bags=tuple(bags[index] for index in keep),
        condition=torch.zeros(1, 1),
        references_sha256="",
    )


def macro_f1(eye: Eye, enrolment: Enrolment, drawn: Draw, count: int, tokens: int) -> float:
    """Return macro-F1 on some of the queries of a draw, the same every time."""
    order = np.random.default_rng(0).permutation(len(drawn.queries))[:count]
    queries = [drawn.queries[index] for index in order]
    found = answer(enrolment.verifier, [thin(eye.look(image), tokens) for image in queries])
    truth = [not image.authentic for image in queries]
    return float(f1_score(truth, found["verdicts"], average="macro", zero_division=0))


def flipped_row(eye: Eye, drawn: Draw, count: int, options: argparse.Namespace) -> dict[str, float]:
    """Flip some labels; return recall, false alarms and macro-F1 with all and without the flagged."""
    everything = list(range(len(drawn.references)))
    chosen = np.random.default_rng(drawn.seed).permutation(len(everything))[:count]
    flipped = set(chosen.tolist())
    enrolment = enrolment_of(eye, drawn, flipped, everything, options.tokens)
    flagged = {each.index for each in audit_enrolment(enrolment) if each.grave and each.kind == "label"}
    row = {
        "recall": len(flagged & flipped) / count if count else float("nan"),
        "false": len(flagged - flipped) / (len(everything) - count),
        "f1": macro_f1(eye, enrolment, drawn, options.queries, options.tokens),
    }
    kept = [index for index in everything if index not in flagged]
    cleaned = enrolment_of(eye, drawn, flipped, kept, options.tokens)
    both = len(set(cleaned.labels)) == 2
    row["f1_dropped"] = (
        macro_f1(eye, cleaned, drawn, options.queries, options.tokens) if flagged and both else row["f1"]
    )
    return row


def stamped_row(drawn: Draw) -> dict[str, float]:
    """Stamp some references of one class with a pattern of black and white; return recall and false alarms."""
    rng = np.random.default_rng(drawn.seed)
    pattern = np.kron(rng.integers(0, 2, (STAMP // 2, STAMP // 2)) * 255, np.ones((2, 2), dtype=int)).astype(np.uint8)
    micrographs = [load_microstructure_data(image.path, crop_data_bar=False) for image in drawn.references]
    first = len(micrographs) // 2
    stamped = set(range(first, min(first + STAMPED, len(micrographs))))
    for index in stamped:
        pixels = np.array(micrographs[index].levels)
        top, left = (int(rng.integers(0, side - STAMP)) for side in pixels.shape[:2])
        pixels[top : top + STAMP, left : left + STAMP] = pattern if pixels.ndim == 2 else pattern[..., None]
        micrographs[index] = Micrograph.from_array(pixels)
    labels = [SIDES[not image.authentic] for image in drawn.references]
    found = find_triggers(micrographs, labels, [str(index) for index in range(len(labels))])
    flagged = {index for trigger in found for index in trigger.places}
    return {
        "recall": len(flagged & stamped) / len(stamped),
        "false": len(flagged - stamped) / (len(labels) - len(stamped)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=["ebc_crack", "jun_glaze"])
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=1, help="tasks of a set, at most")
    parser.add_argument("--queries", type=int, default=60, help="of each draw, at most")
    parser.add_argument("--tokens", type=int, default=8192, help="of each image, at most; fewer are faster")
    parser.add_argument("--model", default="fusion-diff-v1-ceramic")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    eye = Eye(DiffusionModel.from_pretrained(options.model).encoder)
    rows = []
    print(
        "| set | poisoned | recall | false alarms | macro-F1 | flagged dropped | draws |\n|---|---|---|---|---|---|---|"
    )
    for name in options.sets:
        found: dict[str, list[dict[str, float]]] = defaultdict(list)
        for task in SETS[name](options.data)[: options.tasks]:
            for seed in track(range(options.seeds), name):
                drawn = draw(task, options.shots, seed)
                if drawn is None:
                    continue
                for count in range(4):
                    found[f"{count} flipped"].append(flipped_row(eye, drawn, count, options))
                found[f"{STAMPED} stamped"].append(stamped_row(drawn))
        for poisoned, figures in found.items():
            means = {key: float(np.mean([each[key] for each in figures])) for key in figures[0]}
            rows.append({"set": name, "poisoned": poisoned, "draws": len(figures)} | means)
            shown = (f"{means[key]:.2f}" if key in means else "" for key in ("recall", "false"))
            scores = (f"{means[key]:.3f}" if key in means else "" for key in ("f1", "f1_dropped"))
            print(f"| {name} | {poisoned} | {' | '.join(shown)} | {' | '.join(scores)} | {len(figures)} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
