"""Adversarial robustness: python benchmarks/robustness.py --data DIR --out DIR --sets ebc_crack --images 20 --steps 20

On draws of the few-shot protocol, `--images` unseen micrographs, half of them flawed, are attacked in both directions
(see `attacks.py`). A micrograph counts as robust at an attack size if it is judged correctly without attack and after
every attack of that size or less. Three defences are attacked, each with its own gradients: `plain` is the forced
choice, `purified` is that of `inspect --purify`, and `detecting` is `inspect --detect-attacks`, which falls where the
forced choice is wrong and no alarm is raised. Detection is measured by the shift of the log-odds under purification, of
attacks that misled the forced choice against clean micrographs. The attack on `plain` does not take detection into
account; the attack on `detecting` does.

Every result is a line of attacks.jsonl under --out; an interrupted run continues, and --table makes the table of the
images that are finished so far. After a change of method or of an attack take another --out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from answers import Answers
from attacks import Ball, Victim, apgd, pgd, probe, toolbox, unnoticed
from protocol import SETS, Image, draw
from rich.progress import track
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fusion_diff import DiffusionModel, load_microstructure_data
from fusion_diff.diffusion.purification import Purification
from fusion_diff.enrolment.learning import learn
from fusion_diff.references import ReferenceSet
from fusion_diff.trust.certificate import working_pixels
from fusion_diff.verdict.attacked import AttackTest

BALLS = [("inf", k / 255) for k in (1, 2, 4, 8)] + [("2", 0.5), ("2", 1.0)]
CHECKS = [("inf", 1 / 255), ("inf", 4 / 255), ("inf", 64 / 255)]
"""Norms and sizes of attacks whose margins must fall with their size. The last must always succeed; otherwise the
attack is too weak, or gradients are masked."""
TOOLBOX = {"art-pgd", "square"}
"""Attacks that are made by the adversarial-robustness-toolbox."""
CHECKED = ("plain", "purified")
SAME = 2e-2
"""Largest difference in log-odds of the differentiable computation from the product's (rounding of distances)."""


class Bench:
    """One enrolment and all computations on it."""

    def __init__(self, model: DiffusionModel, references: list[Image]) -> None:
        self.encoder = model.encoder
        shown = ReferenceSet.from_micrographs(
            [load_microstructure_data(image.path, crop_data_bar=False) for image in references],
            ["authentic" if image.authentic else "other" for image in references],
            authentic="authentic",
            groups=[image.group for image in references],
        )
        enrolment = learn(model, shown, difference="any", reconstruction=False, detect_attacks=True, progress=None)
        self.verifier, self.condition = enrolment.verifier, enrolment.condition
        self.test = AttackTest.of(model.name, enrolment.shifts, enrolment.groups)
        self.prior = model.reconstruction.prior
        self.victims = {
            "plain": Victim(self.encoder, self.verifier),
            "purified": Victim(self.encoder, self.verifier, Purification(self.prior, self.condition)),
        }
        width = self.encoder.paths[0]
        pooled = np.stack([bag.tokens[:, :width].mean(0).cpu().numpy() for bag in enrolment.bags])
        fitted = LogisticRegression(max_iter=2000).fit(pooled, [label == "other" for label in enrolment.labels])
        self.probe = torch.from_numpy(np.r_[fitted.coef_[0], fitted.intercept_]).float()

    def odds(self, pixels: torch.Tensor) -> dict[str, Any]:
        odds = {name: victim.judge(pixels) for name, victim in self.victims.items()}
        return {"odds": odds, "limit": self.test.threshold}

    def clean(self, pixels: torch.Tensor) -> dict[str, Any]:
        """Judge a micrograph without attack, and check that the differentiable computation matches the product's."""
        odds, milliseconds = {}, {}
        for name, victim in self.victims.items():
            started = time.perf_counter()
            odds[name] = victim.judge(pixels)
            milliseconds[name] = 1000 * (time.perf_counter() - started)
            with torch.no_grad():
                differentiable = float(victim.log_odds(pixels))
            if abs(differentiable - odds[name]) > SAME:
                raise AssertionError(f"{name}: attacked {differentiable:.4f}, but the product says {odds[name]:.4f}")
        alarm = {"limit": self.test.threshold, "false_alarms": self.test.false_alarms}
        return {"odds": odds, "ms": milliseconds} | alarm

    def attacked(
        self, attack: str, defence: str, ball: Ball, flawed: bool, options: argparse.Namespace, *, stop: bool = True
    ) -> torch.Tensor:
        plain, purified = self.victims["plain"], self.victims["purified"]
        eot = options.eot if attack.endswith("eot") else 0
        gradients = {
            "plain": plain.gradient(flawed),
            "purified": purified.gradient(flawed, eot),
            "detecting": unnoticed(plain.gradient(flawed), purified.gradient(flawed), self.test.threshold),
        }
        if attack in ("apgd", "apgd-eot"):
            steps = 2 * options.steps if defence == "detecting" else options.steps  # it has to reach two ends
            return apgd(gradients[defence], ball, steps, stop=stop)
        if attack == "pgd":
            return pgd(gradients[defence], ball, options.steps, stop=stop)
        if attack == "transfer":
            return apgd(probe(self.encoder, self.probe, flawed), ball, 2 * options.steps, stop=False)
        steps = options.queries if attack == "square" else options.steps
        return toolbox(self.victims[defence], ball, flawed, black_box=attack == "square", steps=steps)


PLAN = {
    "plain": (("inf", "2"), ("apgd", "pgd", "art-pgd", "square", "transfer")),
    "purified": (("inf", "2"), ("apgd", "apgd-eot", "pgd", "square", "transfer")),
    "detecting": (("inf", "2"), ("apgd",)),
}
"""Norms and attacks for each defence, strongest attack first, because an image that fell needs no other attack."""


def chosen(queries: list[Image], count: int, seed: int) -> list[Image]:
    """Return a random sample of queries, alternating between flawed and sound."""
    mixed = [queries[index] for index in np.random.default_rng(seed).permutation(len(queries))]
    sides = [i for i in mixed if i.authentic], [i for i in mixed if not i.authentic]
    return [image for pair in zip(*sides, strict=False) for image in pair][:count]


def fell(row: dict[str, Any], defence: str) -> bool:
    """Return whether a verdict is wrong; for `detecting`, whether it is wrong and raises no alarm."""
    if defence == "detecting":
        return fell(row, "plain") and shift(row) <= row["limit"]
    return (row["odds"][defence] > 0) != row["flawed"]


def shift(row: dict[str, Any]) -> float:
    """Return how far purification moves the log-odds."""
    return abs(row["odds"]["plain"] - row["odds"]["purified"])


def question(bench: Bench, image: Image, about: dict[str, Any], answers: Answers, options: argparse.Namespace) -> None:
    """Compute all results of one image."""
    flawed = not image.authentic
    array = working_pixels(load_microstructure_data(image.path, crop_data_bar=False), bench.encoder.tile)
    pixels = torch.from_numpy(array if array.ndim == 2 else array.mean(2))
    about = about | {"image": image.path.name, "flawed": flawed}
    clean = answers.get(about | {"what": "clean"}, lambda: bench.clean(pixels))
    cost = cost_of(options)
    for defence, (norms, attacks) in PLAN.items():
        for norm in norms:
            fallen = fell(clean, defence)
            for eps in sorted(e for n, e in BALLS if n == norm):
                for attack in attacks:
                    # Larger balls contain the smaller ones, so an image that fell need not be attacked again.
                    if fallen or attack not in options.attacks or (attack == "square" and norm == "2"):
                        continue
                    ball = Ball(pixels, norm, eps)

                    def ask(attack=attack, defence=defence, ball=ball) -> dict[str, Any]:
                        return bench.odds(bench.attacked(attack, defence, ball, flawed, options))

                    asked = {"what": "attack", "attack": attack, "defence": defence, "norm": norm, "eps": eps} | cost
                    fallen = fell(answers.get(about | asked, ask), defence)
    for defence in [each for each in CHECKED if not fell(clean, each)]:
        for norm, eps in CHECKS:
            ball = Ball(pixels, norm, eps)
            asked = {"what": "check", "defence": defence, "norm": norm, "eps": eps, "steps": options.steps}

            def check(defence=defence, ball=ball) -> dict[str, Any]:
                attacked = bench.attacked("apgd", defence, ball, flawed, options, stop=False)
                return {"odds": {defence: bench.victims[defence].judge(attacked)}}

            answers.get(about | asked, check)
    answers.get(about | {"what": "finished"} | cost, dict)


def finished(rows: list[dict[str, Any]], model: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows, of the model of this sha256 and with these options, of the images that are finished."""
    asked = cost_of(options) | {"model": model, "shots": options.shots}
    done = {(r["seed"], r["image"]) for r in rows if r["what"] == "finished" and asked.items() <= r.items()}
    return [r for r in rows if (r["seed"], r["image"]) in done and all(r.get(k, v) == v for k, v in asked.items())]


def cost_of(options: argparse.Namespace) -> dict[str, int]:
    return {"steps": options.steps, "queries": options.queries, "eot": options.eot}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of one set."""
    clean = {(r["seed"], r["image"]): r for r in rows if r["what"] == "clean"}
    attacks = [r for r in rows if r["what"] == "attack"]
    out: dict[str, Any] = {"images": len(clean)}
    for defence, (norms, _) in PLAN.items():
        fallen = {key: fell(r, defence) for key, r in clean.items()}
        out[f"clean {defence}"] = 1 - float(np.mean(list(fallen.values())))
        for norm, eps in (ball for ball in BALLS if ball[0] in norms):
            within = [r for r in attacks if (r["defence"], r["norm"]) == (defence, norm) and r["eps"] <= eps]
            broken = {(r["seed"], r["image"]) for r in within if fell(r, defence)}
            broken |= {key for key, was in fallen.items() if was}
            out[f"robust {defence} {norm} {eps:.4f}"] = 1 - len(broken) / len(clean)
    for r in attacks:
        if fell(r, r["defence"]):
            name = f"broken by {r['attack']}, {r['defence']}"
            out[name] = out.get(name, 0) + 1
    for defence, (norm, eps) in product(CHECKED, CHECKS):
        checks = [r for r in rows if r["what"] == "check" and (r["defence"], r["eps"]) == (defence, eps)]
        margins = np.array([r["odds"][defence] * (1 if r["flawed"] else -1) for r in checks])
        if len(margins):
            name = f"check {defence} {norm} {eps:.4f}: margin, accuracy"
            out[name] = float(margins.mean()), float((margins > 0).mean())
    out |= _detection(clean, attacks)
    for defence in ("plain", "purified"):
        out[f"ms {defence}"] = float(np.median([r["ms"][defence] for r in clean.values()]))
    return out


def _detection(clean: dict, attacks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how well the shift tells attacks that misled the forced choice from clean images.

    An attack on `detecting` that misleads the forced choice and raises the alarm is one of them too. Of an image and a
    norm the attack of the least shift counts.
    """
    untouched = [shift(r) for r in clean.values()]
    out = {
        "false alarms, as stated": float(np.mean([r["false_alarms"] for r in clean.values()])),
        "alarms, clean": float(np.mean([shift(r) > r["limit"] for r in clean.values()])),
    }
    for defence, name in (("plain", "unaware"), ("detecting", "aware")):
        least: dict[tuple, dict[str, Any]] = {}
        for r in attacks:
            if r["defence"] == defence and fell(r, "plain"):
                key = r["seed"], r["image"], r["norm"]
                least[key] = min(least.get(key, r), r, key=shift)
        if least:
            found = [shift(r) for r in least.values()]
            truth = [0] * len(untouched) + [1] * len(found)
            out[f"alarms, attacks {name} of it"] = float(np.mean([shift(r) > r["limit"] for r in least.values()]))
            out[f"detection AUROC, {name} of it"] = float(roc_auc_score(truth, untouched + found))
    return out


def markdown(figures: dict[str, dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for each in figures.values() for name in each))
    lines = ["| | " + " | ".join(figures) + " |", "|---|" + "---|" * len(figures)]
    for name in names:
        cells = []
        for each in figures.values():
            value = each.get(name, "")
            cells.append(
                ", ".join(f"{v:.2f}" for v in value)
                if isinstance(value, tuple)
                else f"{value:.3g}"
                if value != ""
                else ""
            )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def ask(name: str, model: DiffusionModel, answers: Answers, options: argparse.Namespace) -> None:
    """Compute all missing results of one set."""
    part, parts = (int(number) for number in options.part.split("/"))
    for seed in range(options.seeds):
        drawn = draw(SETS[name](options.data)[0], options.shots, seed)
        if drawn is None:
            continue
        bench = Bench(model, drawn.references)
        about = {"set": name, "seed": seed, "shots": options.shots, "model": model.sha256}
        for image in track(chosen(drawn.queries, options.images, seed)[part - 1 :: parts], f"{name}, draw {seed}"):
            question(bench, image, about, answers, options)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds ebc_crack and ferrite_tile")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an earlier run in it is continued")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=["ebc_crack", "ferrite_tile"])
    parser.add_argument("--images", type=int, default=20, help="of each draw, half of them flawed")
    parser.add_argument("--steps", type=int, default=20, help="gradient steps of an attack")
    parser.add_argument("--queries", type=int, default=100, help="questions of the black-box attack")
    parser.add_argument("--eot", type=int, default=4, help="noises that apgd-eot averages over")
    parser.add_argument("--attacks", nargs="+", default=["apgd", "apgd-eot", "art-pgd", "square", "transfer"])
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--model", default="fusion-diff-v1-ceramic")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--part", default="1/1", help="2/4: every fourth image from the second; one run for each part")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="ask nothing more, and print what there is")
    options = parser.parse_args()
    by_toolbox = sorted(TOOLBOX & set(options.attacks))
    if by_toolbox and not options.table and find_spec("art") is None:
        parser.error(
            f"{' and '.join(by_toolbox)}: adversarial-robustness-toolbox is not installed; pip install "
            "'fusion-diff[benchmarks]', or choose others with --attacks"
        )
    torch.set_num_threads(options.threads)
    model = DiffusionModel.from_pretrained(options.model)
    answers, figures = Answers(options.out / "attacks.jsonl"), {}
    for name in options.sets:
        if not options.table:
            ask(name, model.to(options.device), answers, options)
        if rows := finished([row for row in answers.rows.values() if row["set"] == name], model.sha256, options):
            figures[name] = summary(rows)
    report = markdown(figures)
    (options.out / "attacks.md").write_text(report, encoding="utf-8")
    (options.out / "attacks.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
