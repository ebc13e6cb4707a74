"""Few-shot accuracy on unseen specimens of real ceramics: python benchmarks/fewshot.py --data DIR --out RUN

Every method gets the same draws (see protocol.py). Reported are macro-F1 of each method's own decisions (threshold from
the references only) and AUROC: the mean over draws with its 95 % interval. Results are stored in RUN/answers.jsonl as
they are computed, so an interrupted run continues. RUN/table.md, RUN/table.json and RUN/f1.png are made from them.
Results are kept apart by weights, not by code: after a change of method or of a baseline take another RUN.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import torch
from answers import append, read
from baselines import FROZEN, RATES, TRAINED, TUNING_SEED, Baselines, nearest_token
from eye import Eye, answer
from f1_plot import plot
from protocol import ALL, SETS, Draw, Task, draw
from rich.progress import track
from scipy import stats
from sklearn.metrics import f1_score, roc_auc_score

from fusion_diff import DiffusionModel
from fusion_diff.fewshot.decision import decide

OURS = "FusionDiff"
MARKED = "FusionDiff, flaws marked"
ALONE = "FusionDiff, authentic only"
ALONE_SHOTS = 10
"""Number of references for methods that learn from authentic references only."""
ALPHAS = (0.1, 0.25)
"""Error rates of the decisions: the default, and one that three specimens can be enough for."""
SAME_TOKENS = "nearest neighbour, FusionDiff's tokens, authentic only"


class Methods:
    """All methods by name, evaluated per draw."""

    def __init__(self, model: DiffusionModel) -> None:
        self.eye = Eye(model)
        self.baselines = Baselines()
        self.rates: dict[tuple[str, str, int], float] = {}
        self.names = [OURS, MARKED, ALONE, SAME_TOKENS, *FROZEN, *TRAINED]

    def ask(self, name: str, drawn: Draw) -> dict[str, object] | None:
        """Return scores (higher: less authentic), verdicts and other results; None if the method does not apply."""
        if name in (OURS, MARKED, ALONE):
            if name == MARKED and not any(image.mark for image in drawn.references):
                return None
            if name == ALONE and drawn.shots != ALONE_SHOTS:
                return None
            references = [image for image in drawn.references if image.authentic or name != ALONE]
            if len(references) < 2:
                return None
            return answer(self.eye.enrol(references, marks=name == MARKED), [self.eye.look(i) for i in drawn.queries])
        if name == SAME_TOKENS:
            if drawn.shots != ALONE_SHOTS:
                return None
            authentic = [self.eye.look(image).tokens for image in drawn.references if image.authentic]
            scores, verdicts = nearest_token(authentic, [self.eye.look(image).tokens for image in drawn.queries])
            return {"scores": scores, "verdicts": verdicts}
        rate = self._rate(name, drawn) if name in TRAINED else None
        scores, verdicts = self._baseline(name, drawn, rate)
        return {"scores": scores, "verdicts": verdicts} | ({} if rate is None else {"rate": rate})

    def forget(self) -> None:
        """Drop the encoded images of the last set."""
        self.eye.bags.clear()
        self.baselines.sights.clear()

    def _baseline(self, name: str, drawn: Draw, rate: float | None) -> tuple[np.ndarray, np.ndarray]:
        references, queries = ([self.baselines.look(i) for i in side] for side in (drawn.references, drawn.queries))
        groups = [image.group for image in drawn.references]
        return (FROZEN | TRAINED)[name](references, truth_of(drawn.references), groups, queries, rate)

    def _rate(self, name: str, drawn: Draw) -> float:
        """Return the best learning rate on the tuning draw of this set and number of shots."""
        shots = drawn.shots
        key = name, drawn.task.name, shots
        if key not in self.rates:
            tuning = draw(drawn.task, shots, TUNING_SEED)
            if tuning is None:
                raise ValueError(f"{drawn.task.name}: the tuning draw cannot be made with {shots} shots")
            truth = truth_of(tuning.queries)
            found = {rate: roc_auc_score(truth, self._baseline(name, tuning, rate)[0]) for rate in RATES}
            self.rates[key] = max(found, key=found.__getitem__)
        return self.rates[key]


def truth_of(images) -> np.ndarray:
    return np.asarray([not image.authentic for image in images])


def said(shots: int) -> str:
    return "all" if shots == ALL else str(shots)


def interval(values: list[float]) -> float:
    """Return half of Student's 95 % interval of the mean, because draws are few."""
    count = len(values)
    return float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else float("nan")


def tables(answers: list[dict]) -> list[dict]:
    """Return one row per set, number of shots and method."""
    figures = defaultdict(lambda: defaultdict(list))
    for entry in answers:
        truth, scores = np.asarray(entry["truth"]), np.asarray(entry["scores"])
        row = figures[entry["set"], entry["shots"], entry["method"]]
        row["auroc"].append(float(roc_auc_score(truth, scores)))
        row["macro_f1"].append(float(f1_score(truth, entry["verdicts"], average="macro")))
        row["seconds"].append(entry["seconds"])
    return [
        {
            "set": name,
            "shots": shots,
            "method": method,
            "draws": len(row["auroc"]),
            "seconds": float(np.mean(row["seconds"])),
            **{figure: float(np.mean(row[figure])) for figure in ("macro_f1", "auroc")},
            **{f"{figure}_interval": interval(row[figure]) for figure in ("macro_f1", "auroc")},
        }
        for (name, shots, method), row in figures.items()
    ]


def side_by_side(answers: list[dict]) -> str:
    """Return a comparison of FusionDiff with the trained networks on the draws they share, and the mean over sets."""
    names = [OURS, *TRAINED]
    figures = defaultdict(dict)
    for entry in answers:
        if entry["method"] in names:
            truth, draw_key = np.asarray(entry["truth"]), (entry["task"], entry["seed"])
            pair = f1_score(truth, entry["verdicts"], average="macro"), roc_auc_score(truth, entry["scores"])
            figures[entry["set"], entry["shots"], entry["method"]][draw_key] = pair
    lines = ["| set | shots | draws | " + " | ".join(f"{name}: F1 / AUROC" for name in names) + " |"]
    lines.append("|" + "---|" * (3 + len(names)))
    means = defaultdict(list)
    for name, shots in sorted({key[:2] for key in figures}, key=lambda key: (key[1], key[0])):
        shared = set.intersection(*(set(figures[name, shots, method]) for method in names))
        if shared:
            row = [np.mean([figures[name, shots, method][key] for key in shared], axis=0) for method in names]
            means[shots].append(row)
            cells = " | ".join(f"{f1:.3f} / {auroc:.3f}" for f1, auroc in row)
            lines.append(f"| {name} | {said(shots)} | {len(shared)} | {cells} |")
    for shots, row in ((shots, row) for shots, row in means.items() if len(row) == len(SETS)):
        cells = " | ".join(f"{f1:.3f} / {auroc:.3f}" for f1, auroc in np.mean(row, axis=0))
        lines.append(f"| mean of {len(row)} sets | {said(shots)} | | {cells} |")
    return "\n".join(lines) + "\n"


@cache
def tasks_of(name: str, data: Path) -> list[Task]:
    return SETS[name](data)


def task_of(entry: dict, data: Path) -> Task:
    return tasks_of(entry["set"], data)[int(entry["task"].split("/")[1])]


def by_task(answers: list[dict], data: Path) -> str:
    """Return the figures of each kind of task of sets that have several."""
    figures = defaultdict(list)
    for entry in answers:
        if shows := task_of(entry, data).shows:
            pair = (
                f1_score(entry["truth"], entry["verdicts"], average="macro"),
                roc_auc_score(entry["truth"], entry["scores"]),
            )
            figures[entry["set"], entry["shots"], entry["method"], shows].append(pair)
    lines = ["| set | shots | method | task | F1 / AUROC | draws |", "|" + "---|" * 6]
    for (name, shots, method, shows), pairs in figures.items():
        f1, auroc = np.mean(pairs, axis=0)
        lines.append(f"| {name} | {said(shots)} | {method} | {shows} | {f1:.3f} / {auroc:.3f} | {len(pairs)} |")
    return "\n".join(lines) + "\n"


def calibration_error(p: np.ndarray, truth: np.ndarray) -> float:
    """Return the expected calibration error of probabilities, in ten bins of equal width (Naeini et al. 2015)."""
    bins = np.minimum((p * 10).astype(int), 9)
    return sum(abs(p[bins == b].mean() - truth[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))


def decisions(answers: list[dict], data: Path) -> list[dict]:
    """Return the calibration of probabilities and the rates of decisions, of methods that give p-values.

    A user has one enrolment, that is one draw, and errors of draws cancel where all are counted together. So the error
    of calibration is given both ways, beside that of perfect probabilities on so few queries; and the number of draws
    in which the error of either side is above alpha.
    """
    gathered = defaultdict(list)
    for entry in answers:
        if all(len(p) == 2 for p in entry.get("p_values", [{}])):
            gathered[entry["set"], entry["shots"], entry["method"]].append(entry)
    rows = []
    for (name, shots, method), entries in gathered.items():
        row = {"set": name, "shots": shots, "method": method, "draws": len(entries)}
        row |= specimens(entries, data) | calibration(entries)
        rows += [row | {"alpha": alpha} | rates(entries, alpha) for alpha in ALPHAS]
    return rows


def specimens(entries: list[dict], data: Path) -> dict[str, float]:
    """Return the mean number of specimens of each side of the references."""
    counts = defaultdict(list)
    for entry in entries:
        drawn = draw(task_of(entry, data), entry["shots"], entry["seed"])
        for side, authentic in (("authentic_specimens", True), ("other_specimens", False)):
            counts[side].append(len({image.group for image in drawn.references if image.authentic == authentic}))
    return {side: float(np.mean(values)) for side, values in counts.items()}


def calibration(entries: list[dict]) -> dict[str, float]:
    rng = np.random.default_rng(0)
    pairs = [(1 / (1 + np.exp(-np.asarray(entry["scores"]))), np.asarray(entry["truth"])) for entry in entries]
    p, truth = (np.concatenate(each) for each in zip(*pairs, strict=True))
    return {
        "calibration_error": calibration_error(p, truth),
        "calibration_error_of_a_draw": float(np.mean([calibration_error(*pair) for pair in pairs])),
        "that_of_perfect_probabilities": float(
            np.mean([calibration_error(p, rng.random(len(p)) < p) for p, _ in pairs for _ in range(100)])
        ),
    }


def rates(entries: list[dict], alpha: float) -> dict[str, float | int | None]:
    """Return how often it is decided, and how often wrongly."""
    # With p-values of both sides, the number of specimens is not used by `decide`.
    verdicts = [np.asarray([decide(each, alpha, 0) for each in entry["p_values"]]) for entry in entries]
    truths = [np.asarray(entry["truth"]) for entry in entries]
    sides = [
        ((decision == "not authentic")[~truth].mean(), (decision == "authentic")[truth].mean())
        for decision, truth in zip(verdicts, truths, strict=True)
    ]
    decision, truth = np.concatenate(verdicts), np.concatenate(truths)
    decided = decision != "inconclusive"
    wrong = np.where(truth, decision == "authentic", decision == "not authentic")
    return {
        "decided": float(decided.mean()),
        "wrong_of_decided": float(wrong[decided].mean()) if decided.any() else None,
        "authentic_rejected": float((decision == "not authentic")[~truth].mean()),
        "other_accepted": float((decision == "authentic")[truth].mean()),
        "draws_above_alpha": int(sum(max(pair) > alpha for pair in sides)),
    }


def decisions_markdown(rows: list[dict]) -> str:
    lines = [
        "| set | shots | method | draws | specimens a side, mean | alpha | decided | authentic rejected | others "
        "accepted | draws above alpha | wrong of decided |",
        "|" + "---|" * 11,
    ]
    lines += [
        f"| {r['set']} | {said(r['shots'])} | {r['method']} | {r['draws']} | {r['authentic_specimens']:.1f} and "
        f"{r['other_specimens']:.1f} | {r['alpha']:g} | {r['decided']:.2f} | {r['authentic_rejected']:.3f} | "
        f"{r['other_accepted']:.3f} | {r['draws_above_alpha']} | "
        f"{'' if r['wrong_of_decided'] is None else format(r['wrong_of_decided'], '.3f')} |"
        for r in rows
    ]
    lines += ["", "| set | shots | method | calibration error, all draws | of one draw | perfect |", "|" + "---|" * 6]
    lines += [
        f"| {r['set']} | {said(r['shots'])} | {r['method']} | {r['calibration_error']:.3f} | "
        f"{r['calibration_error_of_a_draw']:.3f} | {r['that_of_perfect_probabilities']:.3f} |"
        for r in rows
        if r["alpha"] == ALPHAS[0]
    ]
    return "\n".join(lines) + "\n"


def markdown(rows: list[dict]) -> str:
    lines = ["| set | shots | method | macro-F1 | AUROC | draws |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['set']} | {said(r['shots'])} | {r['method']} | {r['macro_f1']:.3f} ± {r['macro_f1_interval']:.3f} "
        f"| {r['auroc']:.3f} ± {r['auroc_interval']:.3f} | {r['draws']} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds ebc_crack, ferrite_tile, jun_glaze")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an earlier run in it is continued")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument(
        "--shots",
        nargs="+",
        type=lambda text: ALL if text == "all" else int(text),
        default=[1, 5, 10, 25],
        help='references a side; "all" for every one',
    )
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument(
        "--trained-seeds", type=int, default=30, help="seeds of the slow methods, those that train a CNN"
    )
    parser.add_argument("--methods", nargs="+", help="names or parts of names; all when omitted")
    parser.add_argument("--model", default="fusion-diff-v1-ceramic")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    methods = Methods(DiffusionModel.from_pretrained(options.model))
    asked = options.methods or methods.names
    wanted = [n for n in methods.names if any(n == part or (part not in methods.names and part in n) for part in asked)]
    file = options.out / "answers.jsonl"
    answers = read(file)
    done = {(a["task"], a["shots"], a["seed"], a["method"], a["model"]) for a in answers}
    methods.rates |= {(a["method"], a["set"], a["shots"]): a["rate"] for a in answers if "rate" in a}
    with append(file) as out:
        for name in options.sets:
            tasks = tasks_of(name, options.data)
            methods.forget()
            for shots in options.shots:
                for seed in track(range(options.seeds), f"{name}, {said(shots)} shots"):
                    for number, task in enumerate(tasks):
                        drawn = draw(task, shots, seed)
                        if drawn is None:
                            continue
                        for method in wanted:
                            model = methods.eye.sha256 if method in (OURS, MARKED, ALONE, SAME_TOKENS) else ""
                            key = (f"{name}/{number}", shots, seed, method, model)
                            if key in done or (method in TRAINED and seed >= options.trained_seeds):
                                continue
                            started = time.perf_counter()
                            found = methods.ask(method, drawn)
                            if found is None:
                                continue
                            entry = {
                                **dict(zip(("task", "shots", "seed", "method", "model"), key, strict=True)),
                                "set": name,
                                "truth": truth_of(drawn.queries).tolist(),
                                "seconds": time.perf_counter() - started,
                                **{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.items()},
                            }
                            out.write(json.dumps(entry) + "\n")
                            out.flush()
                            answers.append(entry)
    order = {key: index for index, key in enumerate([*SETS, *methods.names])}
    known = [a for a in answers if a["set"] in order and a["method"] in order]
    if unknown := len(answers) - len(known):
        print(f"{file}: {unknown} results of methods or sets that are no more are left out", file=sys.stderr)
    current = [a for a in known if a["model"] in ("", methods.eye.sha256)]
    current.sort(key=lambda a: (order[a["set"]], a["shots"], order[a["method"]]))
    rows, decided = tables(current), decisions(current, options.data)
    report = "\n".join(
        [markdown(rows), side_by_side(current), by_task(current, options.data), decisions_markdown(decided)]
    )
    (options.out / "table.md").write_text(report, encoding="utf-8")
    (options.out / "table.json").write_text(
        json.dumps({"tokens_sha256": methods.eye.sha256, "rows": rows, "decisions": decided}, indent=1) + "\n",
        encoding="utf-8",
    )
    plot([row for row in rows if row["shots"] != ALL], options.out / "f1.png")  # "all" has no number to plot
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
