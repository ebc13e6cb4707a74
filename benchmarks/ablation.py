"""What each part is worth: python benchmarks/ablation.py --data DIR --out RUN

Each row is the full method with one part taken away or put in, on the same draws of the protocol in protocol.py.
Queries are thinned to `--queries` a draw, the same for every row. Answers are kept in RUN/ablation.jsonl, so a run that
was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from eye import Eye, answer
from protocol import SETS, draw
from rich.progress import track
from sklearn.metrics import f1_score, roc_auc_score
from torch import nn
from torch.nn import functional as F

from fusion_diff import DiffusionModel
from fusion_diff.encoder.fusion import Encoding
from fusion_diff.fewshot import heads as rooms
from fusion_diff.fewshot import readings
from fusion_diff.fewshot.evidence.multiple_instance import MultipleInstanceEvidence
from fusion_diff.fewshot.evidence.nearest_neighbour import NearestNeighbourEvidence
from fusion_diff.fewshot.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusion_diff.fewshot.bags import Bag


class Gated(nn.Module):
    """The published form of the encoder: one gated mix of both paths."""

    def __init__(self, encoder) -> None:
        super().__init__()
        self.inner, self.tile, self.paths = encoder, encoder.tile, (encoder.fusion.gate.out_channels,)

    def forward(self, pixels):
        seen = self.inner(pixels)
        projections = self.inner.gate_projections
        mixed = self.inner.fusion(projections[0](seen.texture), projections[1](seen.structure))
        return Encoding(mixed, mixed[:, :0], seen.condition)


class Dihedral(nn.Module):
    """Tokens averaged over the eight flips and quarter turns of a tile."""

    def __init__(self, encoder) -> None:
        super().__init__()
        self.inner, self.tile, self.paths = encoder, encoder.tile, encoder.paths

    def forward(self, pixels):
        total, condition = 0.0, None
        for turn in range(8):
            turned = torch.rot90(pixels.flip(-1) if turn > 3 else pixels, turn, (-2, -1)).contiguous()
            seen = self.inner(turned)
            maps = torch.rot90(seen.tokens, -turn, (-2, -1))
            total = total + (maps.flip(-1) if turn > 3 else maps) / 8
            condition = seen.condition if condition is None else condition
        return Encoding(total, total[:, :0], condition)


class Coarse(nn.Module):
    """The same tokens from a tile seen at half its resolution."""

    def __init__(self, encoder) -> None:
        super().__init__()
        self.inner, self.tile, self.paths = encoder, encoder.tile, encoder.paths

    def forward(self, pixels):
        small = F.interpolate(pixels, scale_factor=0.5, mode="bilinear", antialias=True)
        return self.inner(F.interpolate(small, size=pixels.shape[-2:], mode="bilinear"))


def sliced(first: int, last: int | None) -> Callable[[Bag], Bag]:
    return lambda bag: replace(bag, tokens=bag.tokens[:, first:last])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--shots", nargs="+", type=int, default=[10])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--queries", type=int, default=80)
    parser.add_argument("--taught", help="a checkpoint whose adapters were trained by feedback (pretrain --adapters)")
    parser.add_argument("--model", default="fusion-diff-v1-ceramic")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    encoder = DiffusionModel.from_pretrained(options.model).encoder
    eyes = {"as it is": Eye(encoder)}
    for name, wrapped in (("gated", Gated), ("dihedral", Dihedral), ("coarse", Coarse)):
        eyes[name] = Eye(encoder)
        eyes[name].encoder = wrapped(encoder)
    if options.taught:
        eyes["taught"] = Eye(DiffusionModel.from_pretrained(options.taught).encoder)
    texture, structure = encoder.paths
    heads, rules = rooms.HEADS, readings.READINGS

    def without(*left_out) -> tuple:
        return tuple(head for head in heads if head not in left_out)

    whole = (sliced(0, None), (texture, structure), heads)
    rows = {
        "full method": ("as it is", *whole),
        "local path alone": ("as it is", sliced(0, texture), (texture,), heads),
        "global path alone": ("as it is", sliced(texture, None), (structure,), heads),
        "paths learned as one, not one by one": ("as it is", sliced(0, None), (texture + structure,), heads),
        "gated mix of the paths": ("gated", sliced(0, None), None, heads),
        "no multiple-instance evidence": ("as it is", *whole[:2], without(MultipleInstanceEvidence)),
        "no nearest-neighbour evidence": ("as it is", *whole[:2], without(NearestNeighbourEvidence)),
        "no texture as a whole": ("as it is", *whole),
        "no pooled evidence": ("as it is", *whole),
        "no correspondence evidence": ("as it is", *whole),
        "no mirror images of references": ("as it is", *whole),
        "with averaging over flips and turns": ("dihedral", *whole),
        "half the resolution": ("coarse", *whole),
        **({"tokens taught by diffusion feedback": ("taught", *whole)} if options.taught else {}),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "ablation.jsonl"
    found = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
    done = {(f["task"], f["shots"], f["seed"], f["row"]) for f in found}
    with file.open("a", encoding="utf-8") as out:
        for name in options.sets:
            for row, (view, cut, paths, used) in rows.items():
                for eye in eyes.values():
                    if eye is not eyes[view]:
                        eye.bags.clear()
                rooms.HEADS = used
                readings.READINGS = dict(rules)
                for left_out, reading in (
                    ("texture as a whole", readings.TEXTURE),
                    ("pooled evidence", readings.POOLED),
                ):
                    if row == f"no {left_out}":
                        del readings.READINGS[reading]
                twins = row != "no mirror images of references"
                eye = eyes[view]
                for shots in options.shots:
                    for seed in track(range(options.seeds), f"{name}, {shots} shots, {row}"):
                        for number, task in enumerate(SETS[name](options.data)):
                            drawn = draw(task, shots, seed)
                            key = (f"{name}/{number}", shots, seed, row)
                            if drawn is None or key in done:
                                continue
                            chosen = np.random.default_rng(seed).permutation(len(drawn.queries))[: options.queries]
                            queries = [drawn.queries[index] for index in chosen]
                            references = [eye.look(image, reference=twins) for image in drawn.references]
                            if row == "no correspondence evidence":
                                references = [replace(bag, keypoints=None) for bag in references]
                            verifier = Verifier.fit(
                                [cut(replace(bag, mark=None)) for bag in references],
                                ["authentic" if image.authentic else "other" for image in drawn.references],
                                "authentic",
                                [image.group for image in drawn.references],
                                paths or eye.encoder.paths,
                            )
                            said = answer(verifier, [cut(eye.look(image)) for image in queries])
                            truth = [not image.authentic for image in queries]
                            entry = {
                                **dict(zip(("task", "shots", "seed", "row"), key, strict=True)),
                                "set": name,
                                "auroc": float(roc_auc_score(truth, said["scores"])),
                                "macro_f1": float(f1_score(truth, said["verdicts"], average="macro")),
                            }
                            out.write(json.dumps(entry) + "\n")
                            out.flush()
                            found.append(entry)
    figures = defaultdict(list)
    for entry in found:
        figures[entry["row"], entry["shots"], entry["set"]].append((entry["macro_f1"], entry["auroc"]))
    lines = [
        "| " + " | ".join(["shots", "method", *(f"{name}: F1 / AUROC" for name in options.sets)]) + " |",
        "|" + "---|" * (2 + len(options.sets)),
    ]
    for shots in options.shots:
        for row in rows:
            means = [np.mean(figures[row, shots, name], axis=0) for name in options.sets]
            lines.append(f"| {shots} | {row} | " + " | ".join(f"{f1:.3f} / {auroc:.3f}" for f1, auroc in means) + " |")
    (options.out / "ablation.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
