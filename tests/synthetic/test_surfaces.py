from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusion_diff.synthetic.fields import coverage
from fusion_diff.synthetic.materials import MATERIALS
from fusion_diff.synthetic.recipes import NUMBERS, Recipe, draw_recipe, forge, scaled
from fusion_diff.synthetic.surfaces import light, paint, particles, pores


def _recipe(material: str, seed: int = 0) -> Recipe:
    return draw_recipe(material, np.random.default_rng(seed), np.random.default_rng(seed + 1))


@pytest.mark.parametrize("porosity", [0.01, 0.05, 0.12])
def test_pores_cover_the_area_asked_for(porosity: float) -> None:
    recipe = replace(_recipe("alumina"), porosity=porosity, pore_px=2.0)
    boundary = np.full((256, 256), 5, dtype=np.float32)
    covered = [coverage(pores(recipe, 256, np.random.default_rng(seed), boundary)).mean() for seed in range(4)]
    assert np.mean(covered) == pytest.approx(porosity, rel=0.25)


def test_pores_prefer_grain_boundaries() -> None:
    recipe = replace(_recipe("alumina"), porosity=0.02, pore_px=1.2)
    boundary = np.abs((np.arange(256) % 32) - 16).astype(np.float32) * np.ones((256, 1), np.float32)
    cover = coverage(pores(recipe, 256, np.random.default_rng(1), boundary))
    assert (cover * boundary).sum() / cover.sum() < 0.6 * boundary.mean()


def test_particles_cover_the_area_asked_for() -> None:
    recipe = replace(_recipe("porcelain"), second_px=2.0, second_aspect=4.0)
    covered = [coverage(particles(recipe, 256, np.random.default_rng(seed), fraction=0.1)).mean() for seed in range(4)]
    assert np.mean(covered) == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize("material", MATERIALS)
def test_surfaces_are_finite_and_textured(material: str) -> None:
    for seed in range(3):
        recipe = _recipe(material, seed)
        canvas = paint(recipe, 64, np.random.default_rng(seed))
        surface = light(canvas, recipe, 0.5)
        assert surface.dtype == np.float32
        assert np.isfinite(surface).all()
        assert surface.std() > 0.002
        assert canvas.boundary.shape == (64, 64)
        assert (canvas.interface is not None) == (material == "barrier_coating")


@pytest.mark.parametrize("material", MATERIALS)
def test_recipes_and_forgeries_stay_within_the_descriptor_scale(material: str) -> None:
    for seed in range(20):
        genuine = _recipe(material, seed)
        fake = forge(genuine, np.random.default_rng(seed), np.random.default_rng(seed))
        assert fake.pixel_size_um == pytest.approx(genuine.pixel_size_um)
        assert abs(np.log(fake.grain_px / genuine.grain_px)) > 0.2
        for name in NUMBERS:
            assert -1 <= scaled(genuine, name) <= 1
            assert -1 <= scaled(fake, name) <= 1
