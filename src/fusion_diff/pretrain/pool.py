"""The pool: procedural micrographs that are generated once and cropped for every batch."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fusion_diff.synthetic import DESCRIPTOR_NAMES, generate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

SIDE = 256
"""Side of a pooled micrograph in pixels."""


def _generate(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    made = generate(seed, size=SIDE)
    return np.round(made.pixels * 255).astype(np.uint8), made.descriptor


def _read_stamp(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # incomplete: writing was interrupted
        return None


def _single_thread() -> None:
    torch.set_num_threads(1)


class Pool:
    """Micrographs (n, 256, 256) uint8, memory-mapped from disk, and their descriptors (n, d) float32."""

    def __init__(self, pixels: NDArray[np.uint8], descriptors: NDArray[np.float32]) -> None:
        self.pixels = pixels
        self.descriptors = descriptors

    @classmethod
    def open(
        cls, folder: Path, size: int, seed: int, workers: int, progress: Callable[[int, int], None] | None = None
    ) -> Pool:
        """Open the pool in `folder`; generate it if it does not exist or has another size or seed.

        Micrograph i has the generator seed `seed * 10**6 + i`, so pools of the same seed start with the same images.
        """
        folder.mkdir(parents=True, exist_ok=True)
        stamp = {"size": size, "seed": seed, "side": SIDE, "descriptor": list(DESCRIPTOR_NAMES)}
        files = folder / "pixels.npy", folder / "descriptors.npy", folder / "pool.json"
        if not (all(file.exists() for file in files) and _read_stamp(files[2]) == stamp):
            files[2].unlink(missing_ok=True)  # written last, so that an incomplete pool is generated again
            pixels = np.lib.format.open_memmap(files[0], mode="w+", dtype=np.uint8, shape=(size, SIDE, SIDE))
            descriptors = np.zeros((size, len(DESCRIPTOR_NAMES)), dtype=np.float32)
            seeds = range(seed * 10**6, seed * 10**6 + size)
            # spawn: a forked child of a process that has used OpenMP threads can hang
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_single_thread) as executor:
                for index, (image, descriptor) in enumerate(executor.map(_generate, seeds, chunksize=8)):
                    pixels[index], descriptors[index] = image, descriptor
                    if progress:
                        progress(index + 1, size)
            pixels.flush()
            np.save(files[1], descriptors)
            files[2].write_text(json.dumps(stamp), encoding="utf-8")
        return cls(np.load(files[0], mmap_mode="r"), np.load(files[1]))

    def batch(self, count: int, side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Draw crops of random position, zoom (1 to 2), orientation, contrast, polarity and tint.

        Returns:
            Pixels (count, 3, side, side) float32 in [0, 1] and descriptors (count, d).
        """
        chosen = rng.integers(len(self.pixels), size=count)
        crops = []
        for index in chosen:
            span = int(rng.integers(max(32, side // 2), min(side, SIDE) + 1))
            top, left = rng.integers(0, SIDE - span + 1, size=2)
            crop = torch.from_numpy(self.pixels[index, top : top + span, left : left + span].astype(np.float32) / 255)
            crop = torch.rot90(crop, int(rng.integers(4)))
            if rng.random() < 0.5:
                crop = crop.flip(0)
            crop = F.interpolate(crop[None, None], size=(side, side), mode="bilinear", align_corners=False)[0]
            crop = crop.clamp(0, 1) ** float(np.exp(rng.normal(0, 0.25)))
            crop = (crop - 0.5) * float(rng.uniform(0.7, 1.2)) + 0.5 + float(rng.normal(0, 0.05))
            if rng.random() < 0.15:
                crop = 1 - crop
            tint = torch.from_numpy(
                rng.normal(0, 0.08 if rng.random() < 0.3 else 0.0, size=(3, 1, 1)).astype(np.float32)
            )
            crops.append((crop + tint * crop).clamp(0, 1).expand(3, side, side))
        return torch.stack(crops), torch.from_numpy(self.descriptors[chosen])
