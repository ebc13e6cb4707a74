"""Certified accuracy under randomised smoothing: python benchmarks/certificate.py --data DIR --out RUN

On draws of the few-shot protocol, `--images` unseen micrographs, half of them flawed, are certified as by `fusion-diff
certify`, but without recognised surfaces, at each of `--sigmas`. A certificate gives the pixel change below which the
smoothed choice stays the same; it does not show that the choice is correct. So accuracy is reported with and without
noise. Certified are micrographs with a correct choice and a radius. Contradicted are those whose smoothed choice
differs from the model's.

Every result is a line of certificates.jsonl under --out; an interrupted run continues. After a change of method take
another --out.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from answers import Answers
from protocol import SETS
from protocol import draw as draw_task
from rich.progress import track
from robustness import Bench, chosen

from fusion_diff import DiffusionModel, load_microstructure_data
from fusion_diff.diffusion.purification import Purification
from fusion_diff.perception import perceive
from fusion_diff.trust.certificate import as_micrograph, denoising, smooth, working_pixels
from fusion_diff.verdict.model_evidence import ModelEvidence

CONFIDENCE = 0.999


def certificates(name: str, answers: Answers, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each image and sigma of one set."""
    model = DiffusionModel.from_pretrained(options.model)
    drawn = draw_task(SETS[name](options.data)[0], options.shots, options.seed)
    if drawn is None:
        return []
    model.to(options.device)
    bench = Bench(model, drawn.references)
    denoise = {sigma: denoising(bench.prior, bench.condition, sigma) for sigma in sorted(options.sigmas)}

    def against(noisy: np.ndarray, denoise: Purification) -> bool:
        seen = perceive(as_micrograph(noisy), model.encoder, purify=denoise)
        return ModelEvidence.of(*seen, bench.verifier).log_odds > 0

    def ask(sigma: float, pixels: np.ndarray) -> dict[str, Any]:
        found = smooth(
            lambda noisy: against(noisy, denoise[sigma]),
            pixels,
            sigma=sigma,
            samples=options.samples,
            confidence=CONFIDENCE,
            seed=0,
        )
        own = bench.victims["plain"].judge(torch.from_numpy(pixels))
        return {"side": found.decision, "radius": found.radius_l2, "own": own > 0}

    rows = []
    for image in track(chosen(drawn.queries, options.images, options.seed), name):
        array = working_pixels(load_microstructure_data(image.path, crop_data_bar=False), model.encoder.tile)
        pixels = array if array.ndim == 2 else array.mean(2)
        about = {"set": name, "seed": options.seed, "shots": options.shots, "model": model.sha256}
        about |= {"image": image.path.name, "flawed": not image.authentic, "samples": options.samples}
        rows += [answers.get(about | {"sigma": sigma}, partial(ask, sigma, pixels)) for sigma in denoise]
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| set | sigma | images | accuracy without noise | certified | radius | flawed certified as authentic | sound "
        "certified as not | contradicted |",
        "|" + "---|" * 9,
    ]
    for name, sigma in dict.fromkeys((r["set"], r["sigma"]) for r in rows):
        own = [r for r in rows if (r["set"], r["sigma"]) == (name, sigma)]
        flawed = np.array([r["flawed"] for r in own])
        against, sided = (np.array([r["side"] == side for r in own]) for side in ("not authentic", "authentic"))
        alone, radius = np.array([r["own"] for r in own]), np.array([r["radius"] for r in own])
        certified = np.where(flawed, against, sided)
        shares = {
            "accuracy": (alone == flawed).mean(),
            "certified": certified.mean(),
            "radius": np.median(radius[certified]) if certified.any() else 0.0,
            "missed": sided[flawed].mean(),
            "alarmed": against[~flawed].mean(),
            "contradicted": np.where(alone, sided, against).mean(),
        }
        cells = " | ".join(f"{value:.3f}" if key == "radius" else f"{value:.2f}" for key, value in shares.items())
        lines.append(f"| {name} | {sigma:g} | {len(own)} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds ebc_crack and ferrite_tile")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an earlier run in it is continued")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=["ebc_crack", "ferrite_tile"])
    parser.add_argument("--images", type=int, default=20, help="of a draw, half of them flawed")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.03, 0.06, 0.12])
    parser.add_argument("--samples", type=int, default=25, help="noisy copies a certificate")
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--model", default="fusion-diff-v1-ceramic")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    answers = Answers(options.out / "certificates.jsonl")
    report = markdown([row for name in options.sets for row in certificates(name, answers, options)])
    (options.out / "certificates.md").write_text(report, encoding="utf-8")
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
