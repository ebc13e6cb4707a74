"""Few-shot accuracy on unseen specimens of real ceramics: python benchmarks/fewshot.py --data DIR --out RUN

Every method gets the same draws (see protocol.py). Reported are macro-F1 of each method's own decisions (threshold from
the references only) and AUROC: the mean over draws with its 95 % interval. Results are stored in RUN/answers.jsonl as
they are computed, so an interrupted run continues. RUN/table.md, RUN/table.json and RUN/f1.png are made from them.
Results are kept apart by weights, not by code: after a change of method or of a baseline take another RUN.

A set of your own: python benchmarks/fewshot.py --folder REFS --authentic CLASS [--groups GROUPS] --out RUN
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from answers import append, read
from baselines import FROZEN, RATES, TRAINED, TUNING_SEED, TUNING_SEEDS, Baselines, nearest_token
from eye import Eye, answer
from f1_plot import plot
from fewshot_tables import (
    OURS,
    by_task,
    decisions,
    decisions_markdown,
    markdown,
    said,
    side_by_side,
    skipped_lines,
    tables,
)
from own_set import own_set
from protocol import ALL, FEWEST_QUERIES, SETS, Draw, Task, draw
from rich.progress import track
from sklearn.metrics import roc_auc_score

from fusion_diff import DiffusionModel
from fusion_diff.errors import ReferenceSetError

MARKED = "FusionDiff, flaws marked"
WHOLE = "FusionDiff, difference whole"
ALONE = "FusionDiff, authentic only"
ALONE_SHOTS = 10
"""Number of references for methods that learn from authentic references only."""
VERIFIERS = (OURS, MARKED, WHOLE, ALONE)
"""Methods that are FusionDiff's own."""
SAME_TOKENS = "nearest neighbour, FusionDiff's tokens, authentic only"


class Methods:
    """All methods by name, evaluated per draw."""

    def __init__(self, model: DiffusionModel) -> None:
        self.eye = Eye(model)
        self.baselines = Baselines()
        self.rates: dict[tuple[str, str, int], float | None] = {}
        self.names = [*VERIFIERS, SAME_TOKENS, *FROZEN, *TRAINED]

    def ask(self, name: str, drawn: Draw) -> dict[str, object] | None:
        """Return scores (higher: less authentic), verdicts and other results; None if the method does not apply."""
        if name in VERIFIERS:
            if name == MARKED and not any(image.marked for image in drawn.references):
                return None
            if name == ALONE and drawn.shots != ALONE_SHOTS:
                return None
            references = [image for image in drawn.references if image.authentic or name != ALONE]
            if len(references) < 2:
                return None
            difference = "whole" if name == WHOLE else "any"
            verifier = self.eye.enrol(references, marks=name == MARKED, difference=difference)
            return answer(verifier, [self.eye.look(image) for image in drawn.queries])
        if name == SAME_TOKENS:
            if drawn.shots != ALONE_SHOTS:
                return None
            authentic = [self.eye.look(image).tokens for image in drawn.references if image.authentic]
            scores, verdicts = nearest_token(authentic, [self.eye.look(image).tokens for image in drawn.queries])
            return {"scores": scores, "verdicts": verdicts}
        rate = self._rate(name, drawn) if name in TRAINED else None
        if name in TRAINED and rate is None:
            return None
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

    def _rate(self, name: str, drawn: Draw) -> float | None:
        """Return the best learning rate on the tuning draw of this set and number of shots, None if there is none."""
        shots = drawn.shots
        key = name, drawn.task.name, shots
        if key not in self.rates:
            tuning = tuning_draw(drawn.task, shots)
            if tuning is None:
                print(f"{drawn.task.name}, {said(shots)} shots: no draw to tune {name} on, left out", file=sys.stderr)
                self.rates[key] = None
                return None
            truth = truth_of(tuning.queries)
            found = {rate: roc_auc_score(truth, self._baseline(name, tuning, rate)[0]) for rate in RATES}
            self.rates[key] = max(found, key=found.__getitem__)
        return self.rates[key]


def tuning_draw(task: Task, shots: int) -> Draw | None:
    """Return the first draw of the seeds from TUNING_SEED on; None if none of them has one."""
    drawn = (draw(task, shots, seed) for seed in range(TUNING_SEED, TUNING_SEED + TUNING_SEEDS))
    return next((each for each in drawn if each is not None), None)


def truth_of(images) -> np.ndarray:
    return np.asarray([not image.authentic for image in images])


def skipped(tasks: dict[str, list[Task]], seeds: dict[tuple[str, int], int]) -> list[dict]:
    """Return one row per set and number of shots with draws that cannot be made, of so many seeds."""
    rows = []
    for (name, shots), count in seeds.items():
        drawn = [draw(task, shots, seed) for task in tasks[name] for seed in range(count)]
        if lost := drawn.count(None):
            rows.append({"set": name, "shots": shots, "draws": len(drawn), "skipped": lost})
    return rows


def sizes(task: Task) -> str:
    """Return how many images and specimens a set has."""
    images = (*task.references, *(task.queries or ()))
    authentic, groups = sum(image.authentic for image in images), len({image.group for image in images})
    return f"{task.name} has {authentic} authentic images and {len(images) - authentic} others of {groups} specimens"


def asked_sets(parser, options, stored: set[str]) -> tuple[list[str], dict[str, list[Task]]]:
    """Return the names of the sets to measure, and the tasks of these and of those with stored results."""
    if options.folder is None:
        if options.authentic is not None or options.groups is not None:
            parser.error("--authentic and --groups are of a set of your own: give its --folder instead of --data")
        asked = options.sets or list(SETS)
        try:
            tasks = {name: SETS[name](options.data) for name in SETS if name in {*asked, *stored}}
        except FileNotFoundError as error:
            parser.error(str(error))
    else:
        if options.authentic is None or options.sets is not None:
            parser.error("--folder is a single set: name its class to verify with --authentic, and leave out --sets")
        try:
            own = own_set(options.folder, options.authentic, options.groups)
        except ReferenceSetError as error:
            parser.error(str(error))
        asked, tasks = [own.name], {own.name: [own]}
    return asked, tasks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="folder that holds ebc_crack, ferrite_tile, jun_glaze")
    source.add_argument("--folder", type=Path, help="a set of your own: a folder of images per class, as for enroll")
    parser.add_argument("--authentic", metavar="CLASS", help="the class of --folder to verify")
    parser.add_argument("--groups", metavar="REGEX|CSV", help="which images of --folder show one specimen, see enroll")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an earlier run in it is continued")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), help="sets of --data; all when omitted")
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
    file = options.out / "answers.jsonl"
    stored = read(file)
    asked, tasks = asked_sets(parser, options, {a["set"] for a in stored})
    seeds = {(name, shots): options.seeds for name in asked for shots in options.shots}
    lost = skipped(tasks, seeds)
    if lost and len(lost) == len(seeds) and all(r["skipped"] == r["draws"] for r in lost):
        parser.error(
            f"no draw can be made with {' or '.join(map(said, options.shots))} shots: half of the specimens have to "
            f"hold as many images of each side, and the other half {FEWEST_QUERIES}; "
            f"{', '.join(sizes(tasks[name][0]) for name in asked)}. Give fewer --shots or more images"
        )
    torch.set_num_threads(options.threads)
    methods = Methods(DiffusionModel.from_pretrained(options.model))
    named = options.methods or methods.names
    wanted = [n for n in methods.names if any(n == part or (part not in methods.names and part in n) for part in named)]
    answers = [
        a
        for a in stored
        if a["set"] in tasks and a["method"] in methods.names and a.get("set_sha256", "") == tasks[a["set"]][0].sha256
    ]
    if other := len(stored) - len(answers):
        print(f"{file}: {other} results of other methods, sets or groups are left out", file=sys.stderr)
    done = {(a["task"], a["shots"], a["seed"], a["method"], a["model"]) for a in answers}
    methods.rates |= {(a["method"], a["set"], a["shots"]): a["rate"] for a in answers if "rate" in a}
    with append(file) as out:
        for name in asked:
            methods.forget()
            for shots in options.shots:
                for seed in track(range(options.seeds), f"{name}, {said(shots)} shots"):
                    for number, task in enumerate(tasks[name]):
                        drawn = draw(task, shots, seed)
                        if drawn is None:
                            continue
                        for method in wanted:
                            model = methods.eye.sha256 if method in (*VERIFIERS, SAME_TOKENS) else ""
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
                                "set_sha256": task.sha256,
                                "truth": truth_of(drawn.queries).tolist(),
                                "seconds": time.perf_counter() - started,
                                **{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.items()},
                            }
                            out.write(json.dumps(entry) + "\n")
                            out.flush()
                            answers.append(entry)
    current = [a for a in answers if a["model"] in ("", methods.eye.sha256)]
    order = {key: index for index, key in enumerate([*tasks, *methods.names])}
    current.sort(key=lambda a: (order[a["set"]], a["shots"], order[a["method"]]))
    for entry in current:
        about = entry["set"], entry["shots"]
        seeds[about] = max(seeds.get(about, 0), entry["seed"] + 1)
    rows, lost, decided = tables(current), skipped(tasks, seeds), decisions(current, tasks)
    shown = [markdown(rows), *skipped_lines(lost), side_by_side(current), by_task(current, tasks)]
    report = "\n".join([*shown, decisions_markdown(decided)])
    (options.out / "table.md").write_text(report, encoding="utf-8")
    (options.out / "table.json").write_text(
        json.dumps({"tokens_sha256": methods.eye.sha256, "rows": rows, "skipped": lost, "decisions": decided}, indent=1)
        + "\n",
        encoding="utf-8",
    )
    plot([row for row in rows if row["shots"] != ALL], options.out / "f1.png")  # "all" has no number to plot
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
