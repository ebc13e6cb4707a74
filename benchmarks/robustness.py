"""Adversarial robustness: python benchmarks/robustness.py --data DIR --out DIR --sets ebc_crack --images 20 --steps 20

On draws of the few-shot protocol, `--images` unseen micrographs, half of them flawed, are attacked in both directions
(see `attacks.py`). A micrograph counts as robust at an attack size if it is judged correctly without attack and after
every attack of that size or less. Three defences are attacked, each with its own gradients: `plain` is the forced
choice, `purified` is that of `inspect --purify`, and `both` requires misleading the two at once, to evade `inspect
--detect-attacks`. Detection is measured by the shift of the log-odds under purification, of successful attacks against
clean micrographs. The attack on `plain` does not take detection into account; the attack on `both` does.

Every result is a line of answers.jsonl under --out; an interrupted run continues, and --table makes the table of the
images that are finished so far.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from answers import Answers
from attacks import Ball, Victim, apgd, both, pgd, probe, toolbox
from eye import Eye
from protocol import SETS, Image, draw
from rich.progress import track
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fusion_diff import DiffusionModel, load_microstructure_data
from fusion_diff.diffusion.purification import Purification
from fusion_diff.fewshot.verifier import Verifier
from fusion_diff.perception import encode
from fusion_diff.trust.certificate import working_pixels

BALLS = [("inf", k / 255) for k in (1, 2, 4, 8)] + [("2", 0.5), ("2", 1.0)]
CHECK = ("inf", 64 / 255)
"""Norm and size of an attack that must always succeed without a defence; otherwise the attack is too weak."""
SAME = 2e-2
"""Largest difference in log-odds of the differentiable computation from the product's (rounding of distances)."""


class Bench:
    """One enrolment and all computations on it."""

    def __init__(self, model: DiffusionModel, eye: Eye, references: list[Image]) -> None:
        self.encoder = model.encoder
        self.verifier: Verifier = eye.enrol(references)
        authentic = [load_microstructure_data(i.path, crop_data_bar=False) for i in references if i.authentic]
        condition = torch.stack([encode(each, self.encoder)[1] for each in authentic]).mean(0)
        self.prior = model.reconstruction.prior
        self.condition = condition
        self.victims = {
            "plain": Victim(self.encoder, self.verifier),
            "purified": Victim(self.encoder, self.verifier, Purification(self.prior, condition)),
        }
        width = self.encoder.paths[0]
        pooled = np.stack([eye.look(i, reference=True).tokens[:, :width].mean(0).cpu().numpy() for i in references])
        fitted = LogisticRegression(max_iter=2000).fit(pooled, [not i.authentic for i in references])
        self.probe = torch.from_numpy(np.r_[fitted.coef_[0], fitted.intercept_]).float()

    def odds(self, pixels: torch.Tensor) -> dict[str, float]:
        return {name: victim.judge(pixels) for name, victim in self.victims.items()}

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
        return {"odds": odds, "ms": milliseconds}

    def attacked(
        self, attack: str, defence: str, ball: Ball, flawed: bool, options: argparse.Namespace, *, stop: bool = True
    ) -> torch.Tensor:
        plain, purified = self.victims["plain"], self.victims["purified"]
        eot = options.eot if attack.endswith("eot") else 0
        gradients = {
            "plain": plain.gradient(flawed),
            "purified": purified.gradient(flawed, eot),
            "both": both(plain.gradient(flawed), purified.gradient(flawed, eot)),
        }
        if attack in ("apgd", "apgd-eot"):
            return apgd(gradients[defence], ball, options.steps, stop=stop)
        if attack == "pgd":
            return pgd(gradients[defence], ball, options.steps, stop=stop)
        if attack == "transfer":
            return apgd(probe(self.encoder, self.probe, flawed), ball, 2 * options.steps, stop=False)
        steps = options.queries if attack == "square" else options.steps
        return toolbox(self.victims[defence], ball, flawed, black_box=attack == "square", steps=steps)


PLAN = {
    "plain": (("inf", "2"), ("apgd", "pgd", "art-pgd", "square", "transfer")),
    "purified": (("inf", "2"), ("apgd", "apgd-eot", "pgd", "square", "transfer")),
    "both": (("inf",), ("apgd",)),
}
"""Norms and attacks for each defence, strongest attack first, because an image that fell needs no other attack."""


def chosen(queries: list[Image], count: int, seed: int) -> list[Image]:
    """Return a random sample of queries, alternating between flawed and sound."""
    mixed = [queries[index] for index in np.random.default_rng(seed).permutation(len(queries))]
    sides = [i for i in mixed if i.authentic], [i for i in mixed if not i.authentic]
    return [image for pair in zip(*sides, strict=False) for image in pair][:count]


def fell(odds: dict[str, float], flawed: bool, defence: str) -> bool:
    """Return whether a verdict is wrong; for `both`, whether both verdicts are."""
    wrong = {name: (value > 0) != flawed for name, value in odds.items()}
    return all(wrong.values()) if defence == "both" else wrong[defence]


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
            fallen = fell(clean["odds"], flawed, defence)
            for eps in sorted(e for n, e in BALLS if n == norm):
                for attack in attacks:
                    # Larger balls contain the smaller ones, so an image that fell need not be attacked again.
                    if fallen or attack not in options.attacks or (attack == "square" and norm == "2"):
                        continue
                    ball = Ball(pixels, norm, eps)

                    def ask(attack=attack, defence=defence, ball=ball) -> dict[str, Any]:
                        return {"odds": bench.odds(bench.attacked(attack, defence, ball, flawed, options))}

                    asked = {"what": "attack", "attack": attack, "defence": defence, "norm": norm, "eps": eps} | cost
                    fallen = fell(answers.get(about | asked, ask)["odds"], flawed, defence)
    if not fell(clean["odds"], flawed, "plain"):
        for norm, eps in (("inf", 1 / 255), ("inf", 4 / 255), CHECK):
            ball = Ball(pixels, norm, eps)
            asked = {"what": "check", "norm": norm, "eps": eps, "steps": options.steps}

            def check(ball=ball) -> dict[str, Any]:
                attacked = bench.attacked("apgd", "plain", ball, flawed, options, stop=False)
                return {"odds": {"plain": bench.victims["plain"].judge(attacked)}}

            answers.get(about | asked, check)
    answers.get(about | {"what": "finished"} | cost, dict)


def finished(rows: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows, computed with these options, of the images that are finished."""
    cost, model = cost_of(options), rows[-1]["model"] if rows else ""
    done = {(r["seed"], r["image"]) for r in rows if r["what"] == "finished" and cost.items() <= r.items()}
    asked = cost | {"model": model, "shots": options.shots}
    return [r for r in rows if (r["seed"], r["image"]) in done and all(r.get(k, v) == v for k, v in asked.items())]


def cost_of(options: argparse.Namespace) -> dict[str, int]:
    return {"steps": options.steps, "queries": options.queries, "eot": options.eot}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of one set."""
    clean = {(r["seed"], r["image"]): r for r in rows if r["what"] == "clean"}
    attacks = [r for r in rows if r["what"] == "attack"]
    out: dict[str, Any] = {"images": len(clean)}
    for defence, (norms, _) in PLAN.items():
        fallen = {key: fell(r["odds"], r["flawed"], defence) for key, r in clean.items()}
        out[f"clean {defence}"] = 1 - float(np.mean(list(fallen.values())))
        for norm, eps in (ball for ball in BALLS if ball[0] in norms):
            within = [r for r in attacks if (r["defence"], r["norm"]) == (defence, norm) and r["eps"] <= eps]
            broken = {(r["seed"], r["image"]) for r in within if fell(r["odds"], r["flawed"], defence)}
            broken |= {key for key, was in fallen.items() if was}
            out[f"robust {defence} {norm} {eps:.4f}"] = 1 - len(broken) / len(clean)
    for r in attacks:
        if fell(r["odds"], r["flawed"], r["defence"]):
            name = f"broken by {r['attack']}, {r['defence']}"
            out[name] = out.get(name, 0) + 1
    for norm, eps in (("inf", 1 / 255), ("inf", 4 / 255), CHECK):
        checks = [r for r in rows if r["what"] == "check" and r["eps"] == eps]
        margins = [r["odds"]["plain"] * (1 if r["flawed"] else -1) for r in checks]
        if margins:
            out[f"check {norm} {eps:.4f}: margin, accuracy"] = (
                float(np.mean(margins)),
                float(np.mean(np.array(margins) > 0)),
            )
    out |= _detection(clean, attacks)
    for defence in ("plain", "purified"):
        out[f"ms {defence}"] = float(np.median([r["ms"][defence] for r in clean.values()]))
    return out


def _detection(clean: dict, attacks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the AUROC of the shift between plain and purified log-odds, successful attacks against clean images."""

    def shift(row: dict[str, Any]) -> float:
        return abs(row["odds"]["plain"] - row["odds"]["purified"])

    untouched, out = [shift(r) for r in clean.values()], {}
    for defence, name in (("plain", "unaware"), ("both", "aware")):
        done = [r for r in attacks if r["defence"] == defence and fell(r["odds"], r["flawed"], "plain")]
        found = [shift(r) for r in done]
        if found:
            truth = [0] * len(untouched) + [1] * len(found)
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


def ask(name: str, answers: Answers, options: argparse.Namespace) -> None:
    """Compute all missing results of one set."""
    model = DiffusionModel.from_pretrained(options.model)
    eye = Eye(model)
    model.to(options.device)
    part, parts = (int(number) for number in options.part.split("/"))
    for seed in range(options.seeds):
        drawn = draw(SETS[name](options.data)[0], options.shots, seed)
        if drawn is None:
            continue
        bench = Bench(model, eye, drawn.references)
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
    torch.set_num_threads(options.threads)
    answers, figures = Answers(options.out / "answers.jsonl"), {}
    for name in options.sets:
        if not options.table:
            ask(name, answers, options)
        if rows := finished([row for row in answers.rows.values() if row["set"] == name], options):
            figures[name] = summary(rows)
    report = markdown(figures)
    (options.out / "table.md").write_text(report, encoding="utf-8")
    (options.out / "table.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
