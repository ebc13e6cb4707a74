"""The tables of fewshot.py, from its results."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from baselines import TRAINED
from protocol import ALL, SETS, Task, draw
from scipy import stats
from sklearn.metrics import f1_score, roc_auc_score

from fusion_diff.fewshot.decision import decide

OURS = "FusionDiff"
ALPHAS = (0.1, 0.25)
"""Error rates of the decisions: the default, and one that three specimens can be enough for."""


def said(shots: int) -> str:
    return "all" if shots == ALL else str(shots)


def interval(values: list[float]) -> float | None:
    """Return half of Student's 95 % interval of the mean, because draws are few; one draw has none."""
    count = len(values)
    return float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else None


def judged(entry: dict) -> tuple[float, float]:
    """Return macro-F1 and AUROC of one draw."""
    truth = entry["truth"]
    return float(f1_score(truth, entry["verdicts"], average="macro")), float(roc_auc_score(truth, entry["scores"]))


def tables(answers: list[dict]) -> list[dict]:
    """Return one row per set, number of shots and method."""
    figures = defaultdict(lambda: defaultdict(list))
    for entry in answers:
        row = figures[entry["set"], entry["shots"], entry["method"]]
        for figure, value in zip(("macro_f1", "auroc"), judged(entry), strict=True):
            row[figure].append(value)
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
            figures[entry["set"], entry["shots"], entry["method"]][entry["task"], entry["seed"]] = judged(entry)
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


def task_of(entry: dict, tasks: dict[str, list[Task]]) -> Task:
    return tasks[entry["set"]][int(entry["task"].split("/")[1])]


def by_task(answers: list[dict], tasks: dict[str, list[Task]]) -> str:
    """Return the figures of each kind of task of sets that have several."""
    figures = defaultdict(list)
    for entry in answers:
        if shows := task_of(entry, tasks).shows:
            figures[entry["set"], entry["shots"], entry["method"], shows].append(judged(entry))
    lines = ["| set | shots | method | task | F1 / AUROC | draws |", "|" + "---|" * 6]
    for (name, shots, method, shows), pairs in figures.items():
        f1, auroc = np.mean(pairs, axis=0)
        lines.append(f"| {name} | {said(shots)} | {method} | {shows} | {f1:.3f} / {auroc:.3f} | {len(pairs)} |")
    return "\n".join(lines) + "\n"


def calibration_error(p: np.ndarray, truth: np.ndarray) -> float:
    """Return the expected calibration error of probabilities, in ten bins of equal width (Naeini et al. 2015)."""
    bins = np.minimum((p * 10).astype(int), 9)
    return sum(abs(p[bins == b].mean() - truth[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))


def decisions(answers: list[dict], tasks: dict[str, list[Task]]) -> list[dict]:
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
        row |= specimens(entries, tasks) | calibration(entries)
        rows += [row | {"alpha": alpha} | rates(entries, alpha) for alpha in ALPHAS]
    return rows


def specimens(entries: list[dict], tasks: dict[str, list[Task]]) -> dict[str, float]:
    """Return the mean number of specimens of each side of the references."""
    counts = defaultdict(list)
    for entry in entries:
        drawn = draw(task_of(entry, tasks), entry["shots"], entry["seed"])
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
        f"| {r['set']} | {said(r['shots'])} | {r['method']} | {mean(r, 'macro_f1')} | {mean(r, 'auroc')} "
        f"| {r['draws']} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def mean(row: dict, figure: str) -> str:
    half = row[f"{figure}_interval"]
    return f"{row[figure]:.3f}" if half is None else f"{row[figure]:.3f} ± {half:.3f}"


def skipped_lines(rows: list[dict]) -> list[str]:
    counts = [f"{r['skipped']} of {r['draws']} draws of {r['set']} with {said(r['shots'])} shots" for r in rows]
    return [f"Skipped, too few specimens: {', '.join(counts)}.\n"] if rows else []
