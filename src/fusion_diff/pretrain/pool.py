"""The pool: procedural micrographs that are generated once and cropped for every batch."""

from __future__ import annotations

import json
import os
import sys
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


def cores() -> int:
    """Return the number of processor cores that this process may use; a cluster may give it a few of a machine's."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _single_thread() -> None:
    torch.set_num_threads(1)


class Pool:
    """Micrographs (n, 256, 256) uint8, memory-mapped from disk, and their descriptors (n, d) float32."""

    def __init__(self, pixels: Tensor, descriptors: Tensor) -> None:
        self.pixels = pixels
        self.descriptors = descriptors

    def to(self, device: torch.device) -> Pool:
        """Return the pool on a device; an accelerator takes all of it into its memory, 64 KB a micrograph."""
        return Pool(self.pixels.to(device), self.descriptors.to(device))

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
            header = {"descr": "|u1", "fortran_order": False, "shape": (size, SIDE, SIDE)}
            descriptors = np.zeros((size, len(DESCRIPTOR_NAMES)), dtype=np.float32)
            seeds = range(seed * 10**6, seed * 10**6 + size)
            if sys.platform == "win32":
                workers = min(workers, 61)  # Windows waits for no more processes at once
            # spawn: a forked child of a process that has used OpenMP threads can hang
            executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_single_thread)
            # Not through a memory map: a disk that fills up would end the process with a bus error.
            with executor, files[0].open("wb") as pixels:
                np.lib.format.write_array_header_1_0(pixels, header)
                for index, (image, descriptor) in enumerate(executor.map(_generate, seeds, chunksize=8)):
                    pixels.write(image.tobytes())
                    descriptors[index] = descriptor
                    if progress:
                        progress(index + 1, size)
            np.save(files[1], descriptors)
            files[2].write_text(json.dumps(stamp), encoding="utf-8", newline="\n")
        # copy on write: torch wants memory that it could write to
        return cls(torch.from_numpy(np.load(files[0], mmap_mode="c")), torch.from_numpy(np.load(files[1])))

    def batch(self, count: int, side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Draw crops of random position, zoom (1 to 2), orientation, contrast, polarity and tint.

        Returns:
            Pixels (count, 3, side, side) float32 in [0, 1] and descriptors (count, d), on the device of the pool.
        """
        chosen = torch.from_numpy(rng.integers(len(self.pixels), size=count)).to(self.pixels.device)
        shown = self.pixels[chosen][:, None].float() / 255
        where = F.affine_grid(self._numbers(_crops(count, side, rng)), [count, 1, side, side], align_corners=False)
        crops = F.grid_sample(shown, where, mode="bilinear", padding_mode="border", align_corners=False)

        def each(values: NDArray[np.floating]) -> Tensor:
            return self._numbers(values).reshape(count, -1, 1, 1)

        crops = crops ** each(np.exp(rng.normal(0, 0.25, count)))
        crops = (crops - 0.5) * each(rng.uniform(0.7, 1.2, count)) + 0.5 + each(rng.normal(0, 0.05, count))
        crops = torch.where(each(rng.random(count)) < 0.15, 1 - crops, crops)
        tinted = (rng.random((count, 1)) < 0.3) * rng.normal(0, 0.08, (count, 3))
        return (crops * (1 + each(tinted))).clamp(0, 1), self.descriptors[chosen]

    def _numbers(self, values: NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(values).float().to(self.pixels.device)


def _crops(count: int, side: int, rng: np.random.Generator) -> NDArray[np.floating]:
    """Return random affine maps (count, 2, 3) from a crop's coordinates to a micrograph's, both in [-1, 1]."""
    span = rng.integers(max(32, side // 2), min(side, SIDE) + 1, size=count)
    corner = rng.integers(0, SIDE - span + 1, size=(2, count))
    quarter = rng.integers(4, size=count) * np.pi / 2
    turn = np.stack([np.cos(quarter), -np.sin(quarter), np.sin(quarter), np.cos(quarter)], axis=1).round()
    turn = turn.reshape(count, 2, 2)
    turn[:, 1] *= np.where(rng.random(count) < 0.5, -1, 1)[:, None]
    shift = (2 * corner + span) / SIDE - 1
    return np.concatenate([turn * (span / SIDE)[:, None, None], shift.T[..., None]], axis=2)
