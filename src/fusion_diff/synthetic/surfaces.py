"""Sound microstructures as grey levels and heights, before flaws and imaging."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.synthetic.fields import FAR, cloud_noise, coverage, smooth_line, smooth_noise, stamp
from fusion_diff.synthetic.grains import Grains, tessellate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion_diff.synthetic.fields import Field
    from fusion_diff.synthetic.recipes import Recipe


MOST_PORES, MOST_PARTICLES = 4000, 3000
"""Most pores and particles of a surface, on average, which bounds the time. Images of a seed depend on them."""


@dataclass(eq=False)
class Canvas:
    """A surface under construction. Flaws change it in place.

    Attributes:
        grey: float32 (S, S), reflectance or electron yield, 0 black, 1 white.
        height: float32 (S, S), surface height in pixels.
        streaks: float32 (S, S), grinding or milling marks, added when the canvas is lit.
        boundary: float32 (S, S), distance to the nearest grain boundary or interface, in pixels.
        interface: rows of the main interface, float32 (S,), or None without layers.
    """

    grey: Field
    height: Field
    streaks: Field
    boundary: Field
    interface: Field | None = None

    @property
    def size(self) -> int:
        """Side in pixels."""
        return int(self.grey.shape[0])


def paint(recipe: Recipe, size: int, rng: np.random.Generator) -> Canvas:
    """Paint a sound surface.

    Args:
        recipe: the specimen.
        size: side in pixels.
        rng: source of randomness.

    Returns:
        A canvas without flaws, lighting and noise.
    """
    painter = {"barrier_coating": _coating, "glaze": _glaze, "porcelain": _porcelain}.get(recipe.material, _crystals)
    return painter(recipe, size, rng)


def light(canvas: Canvas, recipe: Recipe, angle: float) -> Field:
    """Return the surface lit from `angle` (radians), with bright edges if the recipe has them.

    The light at a pixel depends only on the heights of its neighbours, so a flaw has no effect beyond one pixel.
    """
    height = canvas.height
    dy, dx = np.zeros_like(height), np.zeros_like(height)
    dy[1:-1] = (height[2:] - height[:-2]) * np.float32(0.5)
    dx[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * np.float32(0.5)
    slope = dx * np.float32(np.cos(angle)) + dy * np.float32(np.sin(angle))
    lit = canvas.grey + canvas.streaks
    lit += np.float32(0.35 * recipe.relief) * np.clip(slope, -1, 1)
    if recipe.edge > 0:
        steep = np.minimum(np.sqrt(dy * dy + dx * dx), np.float32(1.2))
        lit += np.float32(recipe.edge * 0.5) * steep
    return np.asarray(lit, dtype=np.float32)


def blend(
    canvas: Canvas, cover: NDArray[np.floating[Any]], grey: NDArray[np.floating[Any]] | float, height: float = 0.0
) -> None:
    """Blend a phase into the canvas with the weights `cover` in [0, 1], and raise it by `height` pixels."""
    canvas.grey += cover * (np.asarray(grey, dtype=np.float32) - canvas.grey)
    if height:
        canvas.height += cover * np.float32(height)


def grinding(recipe: Recipe, size: int, rng: np.random.Generator) -> Field:
    """Return grinding marks down the columns: fine lines whose strength varies slowly along and across them."""
    if recipe.streaks < 0.003:
        return np.zeros((size, size), dtype=np.float32)
    fine = smooth_noise(rng, size, size / 2, 1.0)
    medium = smooth_noise(rng, size, size, 3.0)
    short = smooth_noise(rng, size, 12.0, 1.0)
    lines = 0.5 * fine + 0.4 * medium + 0.4 * short + 0.35 * np.maximum(fine, 0) ** 2
    strength = 1 + 0.5 * smooth_noise(rng, size, size, size / 6)
    return np.asarray(lines * np.maximum(strength, 0) * np.float32(recipe.streaks), dtype=np.float32)


def pores(
    recipe: Recipe, size: int, rng: np.random.Generator, boundary: Field, *, wobble: float = 0.18, flatten: float = 1.3
) -> Field:
    """Return the signed distance to the pores. Three in four lie at grain boundaries, the others at random places."""
    spread = 0.45
    mean_area = np.pi * recipe.pore_px**2 * np.exp(2 * spread**2)
    margin = 8
    count = int(rng.poisson(min(recipe.porosity * (size + 2 * margin) ** 2 / mean_area, MOST_PORES)))
    if not count:
        return np.full((size, size), FAR, dtype=np.float32)
    radius = recipe.pore_px * np.exp(rng.standard_normal(count) * spread)
    places = rng.uniform(-margin, size + margin, (6, count, 2))
    inside = np.clip(places, 0, size - 1).astype(np.intp)
    # Pores at boundaries take the one of six random places that is nearest to a boundary.
    nearest = np.argmin(boundary[inside[..., 0], inside[..., 1]], axis=0)
    choice = np.where(rng.uniform(size=count) < 0.75, nearest, 0)
    centre = places[choice, np.arange(count)]
    aspect = np.exp(np.abs(rng.standard_normal(count)) * 0.3) * flatten**0.5
    angle = rng.uniform(0, np.pi, count) if flatten <= 1.3 else rng.normal(0, 0.25, count)
    return stamp(size, centre[:, 0], centre[:, 1], radius, aspect=aspect, angle=angle, wobble=wobble, rng=rng)


def particles(recipe: Recipe, size: int, rng: np.random.Generator, *, fraction: float) -> Field:
    """Return the signed distance to second-phase particles that cover about `fraction` of the area."""
    mean_area = np.pi * recipe.second_px**2 * np.exp(2 * 0.35**2)
    count = int(rng.poisson(min(fraction * (size + 16) ** 2 / mean_area, MOST_PARTICLES)))
    if not count:
        return np.full((size, size), FAR, dtype=np.float32)
    centre = rng.uniform(-8, size + 8, (2, count))
    radius = recipe.second_px * np.exp(rng.standard_normal(count) * 0.35)
    aspect = np.maximum(recipe.second_aspect * np.exp(rng.standard_normal(count) * 0.25), 1)
    wave = 0.1 if recipe.second_aspect < 2.5 else 0.0
    angle = rng.uniform(0, np.pi, count)
    return stamp(size, centre[0], centre[1], radius, aspect=aspect, angle=angle, wobble=wave, rng=rng)


def _sink_pores(canvas: Canvas, distance: Field, floor: float = 0.08) -> None:
    cover = coverage(distance, 1.3)
    depth = 0.5 + 0.5 * np.clip(-distance / 2, 0, 1)  # small pores are shallower and brighter
    blend(canvas, cover * depth, floor, -2.0)


def _crystals(recipe: Recipe, size: int, rng: np.random.Generator) -> Canvas:
    """Paint a polycrystal: alumina, zirconia, silicon carbide, silicon nitride, ferrite."""
    grains = tessellate(rng, size, recipe.grain_px, recipe.spread, elongation=recipe.elongation)
    canvas = _polycrystal(grains, recipe, size, rng)
    if recipe.second > 0.01:
        equiaxed = recipe.second_aspect < 1.5
        if equiaxed and recipe.second_px > 2:  # whole grains are of the second phase
            other = (rng.uniform(size=grains.count) < recipe.second)[grains.labels]
            cover = other * np.clip(grains.boundary + np.float32(0.5), 0, 1)
        else:
            cover = coverage(particles(recipe, size, rng, fraction=recipe.second))
        blend(canvas, cover, recipe.matrix + recipe.second_grey, 0.6)
    holes = pores(recipe, size, rng, grains.boundary)
    if recipe.porosity > 0.08 and recipe.style[0] < 0.5:  # under-sintered: the pores are still connected
        network = cloud_noise(rng, size, 3 * recipe.pore_px, 2)
        level = NormalDist().inv_cdf(min(recipe.porosity, 0.4))
        holes = np.asarray((network - np.float32(level)) * np.float32(2 * recipe.pore_px), dtype=np.float32)
    _sink_pores(canvas, holes)
    return canvas


def _polycrystal(grains: Grains, recipe: Recipe, size: int, rng: np.random.Generator) -> Canvas:
    tone = rng.standard_normal(grains.count).astype(np.float32) * np.float32(recipe.grain_contrast)
    grey = np.float32(recipe.matrix) + tone[grains.labels]
    grey += np.float32(0.02) * smooth_noise(rng, size, size / 4)
    canvas = Canvas(grey, np.zeros_like(grey), grinding(recipe, size, rng), grains.boundary)
    # Boundaries are a thin line, or glass of varying thickness.
    film = 0.6 + 4 * recipe.glass
    if recipe.glass > 0.02:
        thickness = film + (recipe.glass * 0.35 * recipe.grain_px) * (0.3 + 1.2 * smooth_noise(rng, size, 4.0))
        cover = np.clip(thickness - grains.boundary + np.float32(0.5), 0, 1)
    else:
        cover = np.clip(np.float32(film + 0.6) - grains.boundary, 0, 1)
    blend(canvas, cover, canvas.grey + np.float32(recipe.boundary_contrast))
    if recipe.finish == "etched":  # thermal grooves: grains are domes that slope towards their boundary
        width = np.float32(max(1.5, 0.12 * recipe.grain_px))
        canvas.height += np.float32(1.6) * (1 - np.exp(-grains.boundary / width))
    elif recipe.finish == "fracture":  # each grain shows its own facet or a rough transgranular face
        tilt = rng.standard_normal((3, grains.count)).astype(np.float32)
        ramp = np.arange(size, dtype=np.float32)
        slope_y, slope_x = (0.45 * tilt[i][grains.labels] for i in (0, 1))
        canvas.height += slope_y * ramp[:, None] + slope_x * ramp
        rough = 0.25 * smooth_noise(rng, size, max(2.0, recipe.grain_px / 8)) * (tilt[2] > 0.5)[grains.labels]
        canvas.height += rough + 0.35 * np.float32(recipe.grain_px / 8) * cloud_noise(rng, size, recipe.grain_px * 1.5)
        canvas.grey += np.float32(0.10) * np.tanh(tilt[2])[grains.labels]
        # Little signal escapes from the gaps between grains.
        canvas.grey -= np.float32(0.16) * np.exp(-grains.boundary / np.float32(max(1.2, 0.08 * recipe.grain_px)))
    return canvas


def _coating(recipe: Recipe, size: int, rng: np.random.Generator) -> Canvas:
    """Paint a section through a coating, from the top: mount, sprayed top coat, oxide, silicon bond coat."""
    unit = recipe.grain_px
    rows = np.arange(size, dtype=np.float32)[:, None]
    tilt = np.float32(rng.normal(0, 0.06)) * (np.arange(size, dtype=np.float32) - size / 2)

    def curve(rough: float, period: float) -> Field:
        bumps = smooth_line(rng, size, period) + 0.5 * smooth_line(rng, size, max(3.0, period / 4))
        return np.asarray(tilt + np.float32(rough) * bumps, dtype=np.float32)

    # The image is a window of the whole section. The start of the oxide determines the visible layers.
    oxide_top = size * float(rng.uniform(-0.1, 0.75)) + curve(0.12 * unit, 0.6 * unit)
    oxide_bottom = oxide_top + unit * (1 + 2 * recipe.style[0]) + curve(0.06 * unit, 1.2 * unit)
    top_thickness = unit * (2 + 4 * recipe.style[1])
    surface = oxide_top - top_thickness + curve(0.2 * unit, 0.5 * unit)
    bend = smooth_noise(rng, size, 4.0) * np.float32(1.2)

    def below(line: Field) -> Field:
        return np.asarray(rows + bend - line, dtype=np.float32)  # signed distance, positive below the line

    splats = tessellate(rng, size, max(6.0, 0.5 * unit), 0.5, flatten=1.5 + 1.5 * recipe.style[2], waviness=0.3)
    bond = recipe.matrix
    oxide = bond + (0.28 * recipe.style[3] - 0.14)
    grey = np.full((size, size), bond, dtype=np.float32)
    grey += np.float32(recipe.grain_contrast * 0.7) * smooth_noise(rng, size, unit / 2)
    canvas = Canvas(grey, np.zeros_like(grey), grinding(recipe, size, rng), splats.boundary, oxide_bottom)

    in_oxide = np.clip(np.float32(0.5) - below(oxide_bottom), 0, 1)
    blend(canvas, in_oxide, oxide + np.float32(0.02) * smooth_noise(rng, size, 6.0))
    # Fine spots and flattened pores of the oxide, in rows parallel to the interface.
    strata = np.sin((rows - oxide_bottom) * np.float32(2 * np.pi / (0.35 * unit)) + 2 * smooth_noise(rng, size, unit))
    spots = particles(recipe, size, rng, fraction=0.6 * recipe.second) + np.maximum(0, strata) * np.float32(1.5)
    spot_tone = -0.18 if recipe.style[4] < 0.7 else 0.2
    blend(canvas, coverage(spots) * in_oxide, oxide + spot_tone)

    in_top = np.clip(np.float32(0.5) - below(oxide_top), 0, 1)
    bright = recipe.matrix + 0.15 + abs(recipe.second_grey)
    kind = rng.choice(3, size=splats.count, p=[0.72, 0.2, 0.08])
    tones = np.asarray([bright, bright - 0.22, 0.3 * bond], dtype=np.float32)[kind]
    tones = tones + rng.standard_normal(splats.count).astype(np.float32) * np.float32(recipe.grain_contrast)
    coat = tones[splats.labels] + np.float32(recipe.boundary_contrast) * np.clip(1.2 - splats.boundary, 0, 1)
    blend(canvas, in_top, coat, 0.3)
    if recipe.second > 0.1:  # bright droplets between the top coat and the oxide
        near = np.abs(below(oxide_top) - np.float32(0.3 * unit)) < 0.4 * unit
        drops = coverage(particles(recipe, size, rng, fraction=recipe.second)) * near
        blend(canvas, drops, bright)
    holes = pores(recipe, size, rng, np.abs(below(oxide_top)), wobble=0.3, flatten=1.0 + 1.6 * recipe.style[5])
    _sink_pores(canvas, holes, 0.06)
    if recipe.style[6] < 0.35:  # sound coatings may also show a thin dark line along the interface
        line = np.clip(np.float32(1.2) - np.abs(below(oxide_bottom)), 0, 1)
        blend(canvas, line * (smooth_noise(rng, size, size / 8) > 0), bond - 0.22)
    blend(canvas, np.clip(np.float32(0.5) - below(surface), 0, 1), 0.06)
    canvas.boundary = np.minimum(canvas.boundary + 6 * (1 - in_top), np.abs(below(oxide_bottom)) + 1)
    return canvas


def _glaze(recipe: Recipe, size: int, rng: np.random.Generator) -> Canvas:
    """Paint a fired glaze in grey: flow clouds, specks and needles, bubbles with bright rims, a crackle network."""
    stretch = 1 + 2 * recipe.style[0]
    clouds = cloud_noise(rng, size, recipe.grain_px, 4, stretch)
    grey = np.float32(recipe.matrix) + np.float32(recipe.grain_contrast) * clouds
    canvas = Canvas(
        np.asarray(grey, np.float32),
        np.float32(0.6) * cloud_noise(rng, size, max(6.0, recipe.grain_px / 3), 2),
        grinding(recipe, size, rng),
        np.abs(clouds) * np.float32(recipe.grain_px / 3),
    )
    if recipe.second > 0.02:
        veins = cloud_noise(rng, size, max(2.0, 2 * recipe.second_px), 2, 1 + recipe.second_aspect / 3)
        cover = np.clip((veins - np.float32(1.6 - 4 * recipe.second)) * 2, 0, 1)
        blend(canvas, cover, canvas.grey + np.float32(recipe.second_grey), -0.8)
    if recipe.style[1] < 0.4:  # meandering tracks, as in bluish Jun glazes
        track = cloud_noise(rng, size, recipe.grain_px * 0.6, 2)
        line = np.clip(1 - np.abs(track) * np.float32(0.25 * recipe.grain_px), 0, 1)
        patchy = np.clip(smooth_noise(rng, size, recipe.grain_px), 0, 1)
        blend(canvas, line * patchy, canvas.grey + np.float32(recipe.second_grey), -0.5)
    if recipe.style[2] < 0.5:  # some glazes craze: thin lines between large polygons
        network = tessellate(rng, size, recipe.grain_px * 2.2, 0.35, waviness=0.12)
        canvas.boundary = network.boundary
        line = np.clip(np.float32(1.3) - network.boundary, 0, 1)
        blend(canvas, line, canvas.grey + np.float32(recipe.boundary_contrast), -0.5)
    bubbles = pores(recipe, size, rng, canvas.boundary, wobble=0.04)
    body, rim = coverage(bubbles), np.exp(-np.square(bubbles) / np.float32(1.5))
    blend(canvas, body, canvas.grey - np.float32(0.18))
    canvas.grey += np.float32(0.16) * rim
    glint = coverage(np.asarray(np.roll(bubbles, (1, 1), (0, 1)) + np.float32(0.7 * recipe.pore_px), np.float32))
    canvas.grey += np.float32(0.5) * glint * body
    return canvas


def _porcelain(recipe: Recipe, size: int, rng: np.random.Generator) -> Canvas:
    """Paint porcelain: quartz relics with solution rims and mullite needles in a feldspar glass, and round pores."""
    grains = tessellate(rng, size, recipe.grain_px, recipe.spread, waviness=0.2)
    grey = np.float32(recipe.matrix) + np.float32(0.03) * cloud_noise(rng, size, recipe.grain_px, 3)
    canvas = Canvas(np.asarray(grey, np.float32), np.zeros_like(grey), grinding(recipe, size, rng), grains.boundary)
    needles = particles(recipe, size, rng, fraction=recipe.second)
    patchy = np.clip(0.6 + smooth_noise(rng, size, recipe.grain_px / 2), 0.1, 1)
    blend(canvas, coverage(needles) * patchy, recipe.matrix + recipe.second_grey, 0.8)
    relic = (rng.uniform(size=grains.count) < 0.3)[grains.labels]
    shrunk = grains.boundary - np.float32(0.12 * recipe.grain_px)
    tone = rng.standard_normal(grains.count).astype(np.float32)[grains.labels] * np.float32(recipe.grain_contrast)
    blend(canvas, relic * np.clip(shrunk + np.float32(0.5), 0, 1), recipe.matrix - 0.08 + tone, 0.5)
    rim = np.clip(np.float32(1.2) - np.abs(shrunk), 0, 1) * relic
    blend(canvas, rim, canvas.grey + np.float32(recipe.boundary_contrast), -0.8)
    _sink_pores(canvas, pores(recipe, size, rng, grains.boundary, wobble=0.06))
    return canvas
