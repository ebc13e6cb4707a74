"""Ablation of the parts of the method: python benchmarks/ablation.py --data DIR --out RUN

Each row is the full method with one part removed or added, on the same draws of the protocol in protocol.py. Each draw
uses `--queries` random queries, the same for every row. Results are stored in RUN/ablation.jsonl, so an interrupted run
continues. They are kept apart by weights, heads and readings, not by the rest of the code: after another change of
method take another RUN. Differences are paired by draw; ± is one standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from answers import Answers, change
from eye import Eye, answer
from protocol import SETS, draw, some
from rich.progress import track
from sklearn.metrics import f1_score, roc_auc_score
from variants import Coarse, Dihedral, Gated, Imagined, MeanAndSpread

from fusion_diff import DiffusionModel, load_microstructure_data
from fusion_diff.fewshot import heads, readings
from fusion_diff.fewshot import verifier as verifying
from fusion_diff.fewshot.evidence.multiple_instance import MultipleInstanceEvidence
from fusion_diff.fewshot.evidence.nearest_neighbour import NearestNeighbourEvidence
from fusion_diff.fewshot.evidence.pooled import PooledEvidence
from fusion_diff.fewshot.fusion import Fusion
from fusion_diff.perception import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol import Draw, Image

    from fusion_diff.fewshot.bags import Bag

FULL = "full method"
HEADS, READINGS = heads.HEADS, dict(readings.READINGS)


class PooledAlone(Fusion):
    """Gives nearly all the weight to pooled evidence."""

    @classmethod
    def fit(
        cls, scores: dict[str, np.ndarray], authentic: np.ndarray, groups: Sequence[str], **options: object
    ) -> Fusion:
        fitted = Fusion.fit(scores, authentic, groups, **options)
        return replace(fitted, weight={name: 1.0 if name == readings.POOLED else 1e-9 for name in fitted.weight})


@dataclass(frozen=True)
class Row:
    """What is removed from the full method or added to it.

    Attributes:
        view: name of the encoder of references and queries.
        path: index of the only path used; all paths if omitted.
        joined: whether the channels of all paths are treated as one path.
        heads: heads that are learned.
        readings: readings that are used.
        fusion: class that weights the readings.
        twins: whether references are enrolled with their mirror images.
        surfaces: whether correspondence evidence is used.
        detector: whether the flaw detector is used, if the tokens have its number of channels.
        marks: whether flaws are marked on the references.
        imagined: whether a variant by the prior is added to every reference.
        residuals: whether reconstruction evidence is used.
    """

    view: str = "shipped"
    path: int | None = None
    joined: bool = False
    heads: tuple = HEADS
    readings: tuple[str, ...] = tuple(READINGS)
    fusion: type[Fusion] = Fusion
    twins: bool = True
    surfaces: bool = True
    detector: bool = True
    marks: bool = False
    imagined: bool = False
    residuals: bool = False

    def parts(self) -> dict[str, list[str]]:
        """Return the names of the heads and readings, which differ where the method has others by now."""
        return {"heads": sorted(head.__name__ for head in self.heads), "readings": sorted(self.readings)}


def without(*left_out: type) -> tuple:
    return tuple(head for head in HEADS if head not in left_out)


def unread(*left_out: str) -> tuple[str, ...]:
    return tuple(name for name in READINGS if name not in left_out)


ROWS = {
    FULL: Row(),
    "local path alone": Row(path=0),
    "global path alone": Row(path=1),
    "paths learned as one, not one by one": Row(joined=True),
    "gated mix of the paths": Row(view="gated"),
    "tokens taught by diffusion feedback, one condition token": Row(view="taught"),
    "tokens taught by diffusion feedback, many condition tokens": Row(view="taught by many"),
    "with reconstruction evidence": Row(residuals=True),
    "no multiple-instance evidence": Row(heads=without(MultipleInstanceEvidence)),
    "no nearest-neighbour evidence": Row(heads=without(NearestNeighbourEvidence)),
    "no reading of multiple-instance evidence by itself": Row(readings=unread(readings.MULTIPLE_INSTANCE)),
    "no outliers": Row(readings=unread(readings.OUTLIERS)),
    "no pooled evidence": Row(readings=unread(readings.POOLED)),
    "pooled evidence alone": Row(fusion=PooledAlone),
    "pooled evidence of spreads too": Row(heads=(*without(PooledEvidence), MeanAndSpread)),
    "no correspondence evidence": Row(surfaces=False),
    "no flaw detector": Row(detector=False),
    "flaws marked": Row(marks=True),
    "no mirror images of references": Row(twins=False),
    "with variants of references by the prior": Row(imagined=True),
    "with averaging over flips and turns": Row(view="dihedral"),
    "half the resolution": Row(view="coarse"),
}


class Bench:
    """The encoders of all rows, and the computation of a row on a draw."""

    def __init__(self, model: DiffusionModel, taught: dict[str, str]) -> None:
        self.model = model
        self.eyes = {"shipped": Eye(model)}
        prior = model.reconstruction.prior
        views = {
            name: kind(model.encoder) for name, kind in (("gated", Gated), ("dihedral", Dihedral), ("coarse", Coarse))
        }
        for name, view in (views | {"imagined": Imagined(model.encoder, prior)}).items():
            self.eyes[name] = Eye(model)
            self.eyes[name].encoder = view
        for name, checkpoint in taught.items():
            self.eyes[name] = Eye(DiffusionModel.from_pretrained(checkpoint))

    def forget(self, *kept: str) -> None:
        """Drop the encoded images of all encoders but those named."""
        for name, eye in self.eyes.items():
            if name not in kept:
                eye.bags.clear()

    def ask(self, row: Row, drawn: Draw, queries: list[Image]) -> dict[str, object]:
        """Return macro-F1 and AUROC of a row on a draw."""
        heads.HEADS, verifying.Fusion = row.heads, row.fusion
        readings.READINGS = {name: READINGS[name] for name in row.readings}
        eye, images = self.eyes[row.view], list(drawn.references)
        bags = [eye.look(image, reference=row.twins) for image in images]
        if row.imagined:
            images += images
            bags += [self.eyes["imagined"].look(image, reference=row.twins) for image in drawn.references]
        asked = [eye.look(image) for image in queries]
        paths = eye.encoder.paths
        if row.residuals:
            bags, asked = self._with_residuals(drawn, bags, queries, asked)
        if row.path is not None:
            first = sum(paths[: row.path])
            cut = slice(first, first + paths[row.path])
            paths = (paths[row.path],)
            bags, asked = ([replace(b, tokens=b.tokens[:, cut]) for b in side] for side in (bags, asked))
        if not row.surfaces:
            bags = [replace(bag, keypoints=None) for bag in bags]
        verifier = verifying.Verifier.fit(
            bags if row.marks else [replace(bag, mark=None) for bag in bags],
            ["authentic" if image.authentic else "other" for image in images],
            "authentic",
            [image.group for image in images],
            (sum(paths),) if row.joined else paths,
            eye.detector if row.detector and bags[0].tokens.shape[1] == sum(self.model.encoder.paths) else None,
        )
        said, truth = answer(verifier, asked), [not image.authentic for image in queries]
        return {
            "auroc": float(roc_auc_score(truth, said["scores"])),
            "macro_f1": float(f1_score(truth, said["verdicts"], average="macro")),
        }

    def _with_residuals(
        self, drawn: Draw, bags: list[Bag], queries: list[Image], asked: list[Bag]
    ) -> tuple[list[Bag], list[Bag]]:
        """Return references and queries with residuals of the diffusion path, conditioned on the authentic ones."""
        encoder, path = self.model.encoder, self.model.reconstruction

        def look(image: Image, **options: object) -> tuple[Bag, torch.Tensor]:
            return encode(load_microstructure_data(image.path, crop_data_bar=False), encoder, **options)

        towards = torch.stack([look(image)[1] for image in drawn.references if image.authentic]).mean(0)
        given = partial(path.residual, condition=towards)

        def residual(image: Image, bag: Bag, *, twins: bool) -> Bag:
            return replace(bag, residual=look(image, residual=given, twins=twins)[0].residual)

        return (
            [residual(image, bag, twins=True) for image, bag in zip(drawn.references, bags, strict=True)],
            [residual(image, bag, twins=False) for image, bag in zip(queries, asked, strict=True)],
        )


def table(found: list[dict], sets: list[str]) -> str:
    """Return a table of each row's figures, and its difference in AUROC from the full method on the same draws."""
    figures = defaultdict(dict)
    for entry in found:
        figures[entry["row"], entry["shots"], entry["set"]][entry["task"], entry["seed"]] = entry
    lines = [
        "| " + " | ".join(["shots", "row", *(f"{name}: F1 / AUROC (change, draws)" for name in sets)]) + " |",
        "|" + "---|" * (2 + len(sets)),
    ]
    for shots in sorted({shots for _, shots, _ in figures}):
        for row in ROWS:
            cells = []
            for name in sets:
                own, full = figures[row, shots, name], figures[FULL, shots, name]
                shared = sorted(own.keys() & full.keys())
                if not shared:
                    cells.append("")
                    continue
                f1, auroc = (np.mean([own[key][figure] for key in shared]) for figure in ("macro_f1", "auroc"))
                differences = [own[key]["auroc"] - full[key]["auroc"] for key in shared]
                said = f"{len(shared)}" if row == FULL else f"{change(differences, 3)}, {len(shared)}"
                cells.append(f"{f1:.3f} / {auroc:.3f} ({said})")
            if any(cells):
                lines.append(f"| {shots} | {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--shots", nargs="+", type=int, default=[10])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--queries", type=int, default=80)
    parser.add_argument("--rows", nargs="+", help="parts of names; all when omitted")
    parser.add_argument("--taught", help="checkpoint of pretrain --adapters")
    parser.add_argument("--taught-by-many", help="checkpoint of pretrain --adapters --condition-tokens 16")
    parser.add_argument("--model", default="fusion-diff-v1-ceramic")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    taught = {"taught": options.taught, "taught by many": options.taught_by_many}
    bench = Bench(DiffusionModel.from_pretrained(options.model), {k: v for k, v in taught.items() if v})
    answers = Answers(options.out / "ablation.jsonl")
    asked = {
        title: {"queries": options.queries, "model": bench.eyes[row.view].sha256} | row.parts()
        for title, row in ROWS.items()
        if row.view in bench.eyes
    }
    for name in options.sets:
        tasks = SETS[name](options.data)
        for title, row in ROWS.items():
            if title not in asked or (options.rows and not any(part in title for part in options.rows)):
                continue
            bench.forget("shipped", row.view)
            for shots in options.shots:
                for seed in track(range(options.seeds), f"{name}, {shots} shots, {title}"):
                    for number, task in enumerate(tasks):
                        drawn = draw(task, shots, seed)
                        if drawn is None or (row.marks and not any(image.marked for image in drawn.references)):
                            continue
                        queries = some(drawn.queries, options.queries, seed)
                        about = {"set": name, "task": number, "shots": shots, "seed": seed, "row": title}
                        answers.get(about | asked[title], lambda: bench.ask(row, drawn, queries))  # noqa: B023
        bench.forget()
    found = [
        entry
        for entry in answers.rows.values()
        if entry["row"] in asked and asked[entry["row"]].items() <= entry.items()
    ]
    report = table(found, options.sets)
    (options.out / "ablation.md").write_text(report, encoding="utf-8")
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
