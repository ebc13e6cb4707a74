"""References that are easy to separate: fine grain is authentic, coarse grain or a dark bar is not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fusion_diff.micrograph import Micrograph
from fusion_diff.model import DiffusionModel
from fusion_diff.references import ReferenceSet

Draw = Callable[..., NDArray[np.uint8]]


@pytest.fixture(scope="session")
def draw() -> Draw:
    """Return an 8-bit grey surface of a class."""
    from scipy.ndimage import gaussian_filter

    def make(kind: str, seed: int, *, size: tuple[int, int] = (224, 224)) -> NDArray[np.uint8]:
        rng = np.random.default_rng([seed, len(kind)])
        grain = gaussian_filter(rng.normal(size=size), 4.0 if kind == "coarse" else 1.0)
        grey = 128 + 30 * grain / grain.std()
        if kind == "bar":
            top, left = rng.integers(20, size[0] - 60), rng.integers(20, size[1] - 60)
            grey[top : top + 12, left : left + 40] = 10
        return np.clip(grey, 0, 255).round().astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def make_references(draw: Draw) -> Callable[..., ReferenceSet]:
    """Return a reference set with the given number of each class; bars are optionally marked."""

    def make(counts: dict[str, int], *, marked: bool = False, size: tuple[int, int] = (224, 224)) -> ReferenceSet:
        images = [(kind, draw(kind, seed, size=size)) for kind, count in counts.items() for seed in range(count)]
        return ReferenceSet.from_micrographs(
            [Micrograph.from_array(pixels, pixel_size_um=0.5) for _, pixels in images],
            [kind for kind, _ in images],
            authentic="fine",
            marks=[pixels == 10 if marked and kind == "bar" else None for kind, pixels in images],
        )

    return make


@pytest.fixture(scope="session")
def enrolled(embedded: DiffusionModel, make_references: Callable[..., ReferenceSet]) -> DiffusionModel:
    """A model enrolled with five fine and five coarse references. Tests must not change it."""
    model = copy.deepcopy(embedded)
    model.enroll(make_references({"fine": 5, "coarse": 5}), reconstruction=True)
    return model
