"""How well the prior's autoencoder preserves hairline cracks: python benchmarks/crack_fidelity.py --data DIR

Real cracks of `ebc_micrographs` (marked by hand) are encoded and decoded, tile by tile. Reported is the contrast of the
crack after the round trip, as a share of the contrast before. Contrast is the mean level within 6 pixels of the crack
minus the mean level on it. The same is reported for plain averaging over 4 and 8 pixels, with the peak signal-to-noise
ratio.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_dilation, distance_transform_edt
from torch.nn import functional as F

from fusion_diff import DiffusionModel, load_microstructure_data

CRACK = 2
TILE = 224
LEAST_CRACK = 60


def averaged(tiles: torch.Tensor, factor: int) -> torch.Tensor:
    return F.interpolate(F.avg_pool2d(tiles, factor), scale_factor=factor, mode="bilinear", align_corners=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="fusion-diff-v1-ceramic")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    from PIL import Image

    prior = DiffusionModel.from_pretrained(options.model).reconstruction.prior
    before, widths, errors = [], [], []
    after: dict[str, list[float]] = {"prior's autoencoder": [], "averaged 4 wide": [], "averaged 8 wide": []}
    root = options.data / "ebc_micrographs"
    for path in sorted((root / "images").glob("*.png")):
        micrograph = load_microstructure_data(path, crop_data_bar=False)
        low, high = micrograph.contrast_range
        image = np.clip((micrograph.pixels - low) / (high - low), 0, 1)
        crack = np.asarray(Image.open(root / "masks" / path.name)) == CRACK
        for top in range(0, image.shape[0] - TILE + 1, TILE):
            for left in range(0, image.shape[1] - TILE + 1, TILE):
                window = slice(top, top + TILE), slice(left, left + TILE)
                on = crack[window]
                if on.sum() < LEAST_CRACK:
                    continue
                beside = binary_dilation(on, iterations=8) & ~binary_dilation(on, iterations=2)
                tile = torch.from_numpy(image[window][None, None].astype(np.float32)).expand(1, 3, TILE, TILE)
                with torch.inference_mode():
                    rebuilt = {
                        "prior's autoencoder": prior.decode(prior.encode(tile)),
                        "averaged 4 wide": averaged(tile, 4),
                        "averaged 8 wide": averaged(tile, 8),
                    }
                contrast = float(image[window][beside].mean() - image[window][on].mean())
                if contrast < 0.05:
                    continue  # marked, but not darker than its surroundings: no contrast to preserve
                before.append(contrast)
                widths.append(2 * float(distance_transform_edt(on)[on].mean()))
                for name, pixels in rebuilt.items():
                    grey = pixels[0].mean(0).numpy()
                    after[name].append(float(grey[beside].mean() - grey[on].mean()) / contrast)
                error = float(((rebuilt["prior's autoencoder"] - tile) ** 2).mean())
                errors.append(-10 * np.log10(max(error, 1e-12)))
    if not before:
        parser.error(
            f"{root}: no tile to measure; it takes images/*.png of {TILE} pixels a side or more, and masks/ of the "
            f"same names that mark dark cracks with {CRACK}, {LEAST_CRACK} pixels of a tile or more"
        )
    figures = {name: float(np.mean(values)) for name, values in after.items()}
    print(f"{len(before)} tiles with cracks about {np.mean(widths):.1f} px wide, contrast {np.mean(before):.2f}")
    print("| round trip | contrast kept |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:.2f} |")
    print(f"PSNR of the autoencoder: {np.mean(errors):.1f} dB")
    if options.json:
        result = {"tiles": len(before), "contrast_kept": figures, "psnr_db": float(np.mean(errors))}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
