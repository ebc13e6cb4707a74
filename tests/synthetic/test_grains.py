from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label

from fusion_diff.synthetic.grains import _seeds, tessellate


@pytest.mark.parametrize("diameter", [6.0, 12.0, 24.0])
def test_mean_grain_size_is_the_one_asked_for(diameter: float) -> None:
    grains = tessellate(np.random.default_rng(0), 192, diameter, 0.3)
    count = len(np.unique(grains.labels))
    # Grains cut by the border count as halves, and the smallest grains are covered by their neighbours.
    expected = (192 + diameter) ** 2 / (np.pi / 4 * diameter**2)
    assert 0.55 * expected < count < 1.3 * expected


def test_a_wider_spread_gives_more_unequal_grains() -> None:
    def inequality(spread: float) -> float:
        labels = tessellate(np.random.default_rng(1), 256, 14, spread).labels
        areas = np.bincount(labels.ravel())
        areas = areas[areas > 0]
        return float(areas.std() / areas.mean())

    assert inequality(0.6) > 1.2 * inequality(0.15)


def test_cells_agree_with_a_brute_force_power_diagram() -> None:
    size, diameter, spread = 64, 9.0, 0.35
    grains = tessellate(np.random.default_rng(2), size, diameter, spread, waviness=0)
    seeds, owner, weights, _ = _seeds(
        np.random.default_rng(2), np.asarray([size, size]), diameter, diameter, 1.0, spread
    )
    y, x = np.mgrid[:size, :size]
    power = (y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2 - weights
    assert np.mean(grains.labels == owner[power.argmin(axis=-1)]) > 0.999


def test_the_boundary_distance_is_small_where_labels_change_and_large_inside() -> None:
    grains = tessellate(np.random.default_rng(3), 128, 24, 0.2)
    step = grains.labels[:, 1:] != grains.labels[:, :-1]
    # Near triple junctions the second cell by power may have a farther wall than the third.
    assert np.quantile(grains.boundary[:, 1:][step], 0.98) < 1.2
    assert grains.boundary.min() >= 0
    assert np.quantile(grains.boundary, 0.95) > 24 / 6


def test_laths_are_longer_than_equiaxed_grains() -> None:
    def elongation(value: float) -> float:
        labels = tessellate(np.random.default_rng(4), 256, 20, 0.2, elongation=value, waviness=0).labels
        ratios = []
        for grain in np.unique(labels):
            parts, _ = label(labels == grain)
            y, x = np.nonzero(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
            if y.size > 120:
                low, high = np.linalg.eigvalsh(np.cov(np.stack([y, x])))
                ratios.append((high / low) ** 0.5)
        return float(np.quantile(ratios, 0.85))

    assert elongation(4.0) > 1.35 * elongation(1.0)


def test_flattened_grains_are_wider_than_high() -> None:
    labels = tessellate(np.random.default_rng(5), 192, 20, 0.2, flatten=3.0).labels
    down = np.mean(labels[1:] != labels[:-1])
    across = np.mean(labels[:, 1:] != labels[:, :-1])
    assert down > 2 * across
