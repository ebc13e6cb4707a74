"""Recipes: physical and imaging parameters of a procedural ceramic, drawn per material, lot and specimen."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from fusion_diff.synthetic.materials import COMMON, FINISHES, LIMITS, OPTICAL, RANGES, Finish


@dataclass(frozen=True)
class Recipe:
    """Parameters of manufacture, preparation and imaging of a specimen. Grey values are fractions of white.

    Attributes:
        material: name of the material.
        finish: preparation of the surface.
        grain_um: mean grain diameter in micrometres; layers, splats and glaze clouds scale with it.
        grain_px: the same in pixels.
        spread: standard deviation of the logarithm of the grain radius.
        elongation: ratio of length to width of the grains.
        porosity: area fraction of pores; less is drawn in large images, see `generate`.
        pore_px: median pore radius in pixels.
        glass: how wide the glass at grain boundaries is. It is no fraction of the area: 0.2 covers some 0.3 to 0.4.
        second: area fraction of second phase; fewer particles are drawn in large images, see `generate`.
        second_px: median radius of second-phase particles in pixels.
        second_aspect: ratio of length to width of second-phase particles.
        second_grey: grey of the second phase minus that of the matrix.
        matrix: grey of the matrix.
        grain_contrast: standard deviation of grey between grains.
        boundary_contrast: grey of grain boundaries and glass minus that of the matrix.
        relief: strength of the shading of surface heights.
        streaks: strength of grinding or milling marks down the columns.
        shading: strength of slow changes of illumination.
        edge: brightening of edges, as by secondary electrons.
        noise: standard deviation of noise at mid grey.
        blur: standard deviation of the point spread in pixels.
        contrast: gain about mid grey.
        gamma: exponent of the grey curve.
        jitter: amplitude of scan-line displacement in pixels.
        style: eight numbers in [0, 1) that determine further properties shared by a lot.
    """

    material: str
    finish: Finish
    grain_um: float
    grain_px: float
    spread: float
    elongation: float
    porosity: float
    pore_px: float
    glass: float
    second: float
    second_px: float
    second_aspect: float
    second_grey: float
    matrix: float
    grain_contrast: float
    boundary_contrast: float
    relief: float
    streaks: float
    shading: float
    edge: float
    noise: float
    blur: float
    contrast: float
    gamma: float
    jitter: float
    style: tuple[float, ...]

    @property
    def pixel_size_um(self) -> float:
        """Side of a pixel in micrometres."""
        return self.grain_um / self.grain_px

    @property
    def optical(self) -> bool:
        """Whether the specimen is imaged with light instead of electrons."""
        return self.material in OPTICAL


NUMBERS = tuple(field.name for field in fields(Recipe) if field.name not in ("material", "finish", "style"))

# Standard deviation between specimens of a lot, as a share of the material's range.
_JITTER = 0.04


def draw_recipe(
    material: str, make: np.random.Generator, specimen: np.random.Generator, *, of_a_lot: bool = False
) -> Recipe:
    """Draw a recipe.

    Args:
        material: one of `MATERIALS`.
        make: draws the parameters (the lot's generator if the specimen belongs to a lot).
        specimen: draws the slight differences between specimens of one lot.
        of_a_lot: whether to add these differences; the magnification stays that of the lot.

    Returns:
        The recipe.
    """
    finish = FINISHES[material][int(make.integers(len(FINISHES[material])))]
    ranges = {**COMMON, **RANGES[material]}
    share = make.uniform(size=len(NUMBERS))
    style = tuple(float(u) for u in make.uniform(size=8))
    if of_a_lot:
        shift = specimen.standard_normal(len(NUMBERS)) * _JITTER
        shift[NUMBERS.index("grain_px")] = shift[NUMBERS.index("grain_um")] = 0
        share = np.clip(share + shift, 0, 1)
    values = {name: _between(*ranges[name], LIMITS[name][2], float(u)) for name, u in zip(NUMBERS, share, strict=True)}
    if of_a_lot:  # slightly coarser or finer at the same magnification
        coarser = float(np.exp(specimen.standard_normal() * _JITTER))
        values["grain_um"] *= coarser
        values["grain_px"] *= coarser
    if finish == "polished":
        values["relief"] *= 0.25
    return Recipe(material=material, finish=finish, style=style, **values)


def forge(recipe: Recipe, rng: np.random.Generator, specimen: np.random.Generator) -> Recipe:
    """Return the recipe of a counterfeit: same material and microscope, but different raw materials and firing.

    Grain size changes by a factor of 1.35 to 2.2. Of porosity, pore size, second phase, grain shape and grey levels,
    about half change too.

    Args:
        recipe: the authentic recipe.
        rng: draws the changes (the lot's generator if the specimen belongs to a lot).
        specimen: draws the slight differences between specimens.
    """

    def factor(low: float, high: float) -> float:
        value = float(rng.uniform(np.log(low), np.log(high)))
        sign = 1.0 if rng.uniform() < 0.5 else -1.0
        return float(np.exp(sign * value + 0.03 * specimen.standard_normal()))

    def within(name: str, value: float) -> float:
        return float(np.clip(value, LIMITS[name][0], LIMITS[name][1]))

    size = factor(1.35, 2.2)
    grain_px = within("grain_px", recipe.grain_px * size)
    if abs(np.log(grain_px / recipe.grain_px)) < np.log(1.3):  # at a limit: change in the other direction
        grain_px = within("grain_px", recipe.grain_px / size)
    changes: dict[str, Any] = {"grain_px": grain_px, "grain_um": grain_px * recipe.pixel_size_um}
    for name in ("porosity", "pore_px", "second", "second_px", "second_aspect", "elongation", "grain_contrast"):
        by = factor(1.4, 3.0)
        if rng.uniform() < 0.5:
            changes[name] = within(name, getattr(recipe, name) * by)
    offset = float(rng.uniform(0.2, 0.45))
    if rng.uniform() < 0.4:
        spread = recipe.spread + offset if recipe.spread < 0.35 else recipe.spread - offset
        changes["spread"] = within("spread", spread)
    return replace(recipe, **changes)


def scaled(recipe: Recipe, name: str) -> float:
    """Return a parameter of the recipe scaled to [-1, 1] over all materials."""
    low, high, logarithmic = LIMITS[name]
    value = float(np.clip(getattr(recipe, name), low, high))
    share = np.log(value / low) / np.log(high / low) if logarithmic else (value - low) / (high - low)
    return float(2 * share - 1)


def _between(low: float, high: float, logarithmic: bool, share: float) -> float:
    if logarithmic:
        return float(low * (high / low) ** share)
    return low + (high - low) * share
