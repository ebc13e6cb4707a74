"""Lots of procedural ceramics that differ as a whole: python benchmarks/lots.py --out DIR

Each folder is a set for fewshot.py --folder: 36 authentic specimens and 36 of another lot, which was made a little
otherwise. Nothing in them is a flaw that has a place. Noise, blur, contrast and gamma differ from image to image.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from rich.progress import track

from fusion_diff.synthetic.imaging import expose
from fusion_diff.synthetic.recipes import draw_recipe
from fusion_diff.synthetic.surfaces import light, paint

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE, SPECIMENS = 224, 36
LOTS: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    "grain-size": ("alumina", {"finish": "etched", "porosity": 0.01, "grain_px": 14.0}, {"grain_px": 17.5}),
    "grain-spread": ("zirconia", {"finish": "etched", "grain_px": 14.0, "spread": 0.25}, {"spread": 0.5}),
    "porosity": ("porcelain", {"porosity": 0.06}, {"porosity": 0.03}),
    "second-phase": ("silicon_carbide", {"porosity": 0.02, "second": 0.1}, {"second": 0.05}),
}
"""Of each set the material, what both lots have in common, and what the other lot has in its place."""


def specimen(material: str, settings: dict[str, object], lot: int, seed: int) -> NDArray[np.uint8]:
    """Return the image of one specimen of a lot."""
    ours, its, imaging = (np.random.default_rng(key) for key in ([lot, 7], [seed, 8], [seed, 9]))
    recipe = replace(draw_recipe(material, ours, its, of_a_lot=True), **settings)
    recipe = replace(
        recipe,
        noise=float(np.exp(imaging.uniform(np.log(0.01), np.log(0.07)))),
        blur=float(imaging.uniform(0.4, 1)),
        contrast=float(imaging.uniform(0.7, 1.2)),
        gamma=float(imaging.uniform(0.8, 1.25)),
    )
    surface = paint(recipe, SIZE, np.random.default_rng([seed, 11]))
    pixels = expose(
        light(surface, recipe, float(ours.uniform(0, 2 * np.pi))), recipe, np.random.default_rng([seed, 12])
    )
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--specimens", type=int, default=SPECIMENS, help="specimens of each lot")
    options = parser.parse_args()
    for lot, (name, (material, both, other)) in enumerate(LOTS.items(), 101):
        for side, settings in enumerate((both, both | other)):
            folder = options.out / name / ("authentic", "other")[side]
            folder.mkdir(parents=True, exist_ok=True)
            for index in track(range(options.specimens), f"{name}, {folder.name}"):
                pixels = specimen(material, settings, lot, 10_000 * lot + 1000 * side + index)
                Image.fromarray(pixels).save(folder / f"{folder.name}-{index:02d}.png")


if __name__ == "__main__":
    main()
