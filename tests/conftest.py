"""Inspections to print, and a small model that really looks at the pixels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusion_diff.regions import find_regions
from fusion_diff.result import EvidenceMap, Inspection, NearestReference, Region


@pytest.fixture
def make_inspection() -> Callable[..., Inspection]:
    """Returns an inspection made by hand, with any field changed."""
    values = np.full((4, 8), -1, dtype=np.float32)
    values[1:3, 3:5] = 3
    region = Region(4, 20, 24, 24, 16.0, 32.0, 400, 3.0, 2.5, 100.0, 16.0, 8.0)
    inspection = Inspection(
        source="line-7/a.tif",
        file_sha256="0f" * 32,
        model_name="line-7",
        model_sha256="ab" * 32,
        references_sha256="cd" * 32,
        score=0.03125,
        decision="not authentic",
        predicted_class="crack",
        p_values={"authentic": 0.0625, "not authentic": 0.75},
        alpha=0.1,
        evidence=EvidenceMap(values, 1 / 8, 32, 64),
        threshold=1.5,
        regions=(region,),
        nearest=(NearestReference("crack/b.tif", "crack", 0.875),),
        contributions={"dense": 2.5, "residual": -0.5},
        reasons=("One region of 100 µm² departs from the references.",),
        height=32,
        width=64,
        pixel_size_um=0.5,
        instrument="SEM",
        seconds=0.25,
    )

    def make(**changes: Any) -> Inspection:
        return dataclasses.replace(inspection, **changes)

    return make


class DarknessModel:
    """Takes blocks of 8 by 8 pixels darker than 0.3 of full scale as evidence; satisfies `Inspector`."""

    def inspect(self, micrograph: Any, *, alpha: float) -> Inspection:
        height, width = micrograph.height // 8 * 8, micrograph.width // 8 * 8
        pixels = micrograph.window(0, 0, height, width)
        blocks = pixels.reshape(height // 8, 8, width // 8, 8, -1).mean(axis=(1, 3, 4))
        values = (10 * (0.3 - blocks / np.iinfo(micrograph.dtype).max)).astype(np.float32)
        evidence = EvidenceMap(values, 1 / 8, micrograph.height, micrograph.width)
        score = 1 / (1 + math.exp(float(values.max())))
        return Inspection(
            source=str(micrograph.source),
            file_sha256=micrograph.sha256,
            model_name="darkness",
            model_sha256="ab" * 32,
            references_sha256="cd" * 32,
            score=score,
            decision="authentic" if score > 1 - alpha else "not authentic" if score < alpha else "inconclusive",
            predicted_class="bright" if score > 0.5 else "dark",
            p_values={"authentic": score, "not authentic": 1 - score},
            alpha=alpha,
            evidence=evidence,
            threshold=1.0,
            regions=find_regions(evidence, 1.0, pixel_size_um=micrograph.pixel_size_um),
            nearest=(),
            contributions={"darkness": float(values.max())},
            reasons=(),
            height=micrograph.height,
            width=micrograph.width,
            pixel_size_um=micrograph.pixel_size_um,
            instrument=micrograph.instrument,
            seconds=0.01,
        )


@pytest.fixture
def darkness_model() -> DarknessModel:
    return DarknessModel()


@pytest.fixture
def save_micrograph() -> Callable[..., None]:
    """Writes a 16-bit TIFF with some noise about a level (of full scale), and perhaps a dark spot."""

    def save(path: Any, level: float, *, spot: bool = False, side: int = 64) -> None:
        import tifffile

        pixels = np.random.default_rng(0).uniform(level - 0.02, level + 0.02, (side, side))
        if spot:
            pixels[16:32, 24:40] = 0.0
        tifffile.imwrite(path, np.rint(65535 * pixels).astype(np.uint16))

    return save
