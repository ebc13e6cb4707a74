"""Local flaws painted onto a sound surface.

Every painter takes the canvas, the recipe and a generator, changes the canvas in place and returns a `PaintedFlaw`.
Contrast and width vary from obvious to barely visible, because inspection must learn the faint flaws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.synthetic.fields import cloud_noise, coverage, smooth_line, smooth_noise, stamp
from fusion_diff.synthetic.paths import FlawPath, branching_path, curved_path
from fusion_diff.synthetic.surfaces import Canvas, blend

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusion_diff.synthetic.fields import Field
    from fusion_diff.synthetic.recipes import Recipe


@dataclass(frozen=True, eq=False)
class PaintedFlaw:
    """The area of a painted flaw.

    Attributes:
        cover: float32 (S, S) in [0, 1], covered share of each pixel.
        solid: whether the whole covered area counts as flaw, even where its grey equals the sound grey.
    """

    cover: Field
    solid: bool = False


def _crack(canvas: Canvas, recipe: Recipe, rng: np.random.Generator) -> PaintedFlaw:
    size = canvas.size
    # Hairline cracks are visible only on a smooth surface. Between high-contrast grains a crack is wide and dark.
    clutter = min(float(canvas.grey.std()), 0.15)
    half_width = float(np.exp(rng.uniform(np.log(0.4 + 4 * clutter), np.log(2.2))))
    origin: tuple[float, float] | None = None
    heading: float | None = None
    if canvas.interface is not None and rng.uniform() < 0.75:  # coatings crack through their thickness
        column = float(rng.uniform(0.1, 0.9)) * size
        row = float(canvas.interface[int(column)])
        if 0.15 * size < row < 1.1 * size:
            origin, heading = (min(row, size - 2.0), column), float(rng.normal(-np.pi / 2, 0.2))
    if heading is None and recipe.streaks > 0.03:  # grinding cracks run along or across the marks
        heading = float(rng.choice([0.0, np.pi / 2])) + float(rng.normal(0, 0.12))
    pull = float(rng.choice([0.0, 0.5, 1.5]))  # transgranular, mixed, intergranular
    path = branching_path(rng, canvas.boundary, origin=origin, heading=heading, pull=pull)
    radius = half_width * path.taper * (1 + 0.3 * smooth_line(rng, len(path.y), 6.0))
    distance = stamp(size, path.y, path.x, np.maximum(radius, 0.2))
    cover = coverage(distance)
    depth = float(rng.uniform(0.4 + 3 * clutter, 1.0))
    floor = float(rng.uniform(0.02, 0.15))
    if rng.uniform() < 0.4:  # edges charge and shine
        flank = np.exp(-np.square(np.maximum(distance, 0) - 1) / np.float32(0.8)) * (distance < 3)
        canvas.grey += np.float32(rng.uniform(0.03, 0.15)) * flank * (1 - cover)
    target = np.minimum(canvas.grey - np.float32(0.12), np.float32(floor))
    blend(canvas, cover * np.float32(depth), target)
    canvas.streaks *= 1 - cover
    return PaintedFlaw(cover)


def _delamination(canvas: Canvas, recipe: Recipe, rng: np.random.Generator) -> PaintedFlaw:
    size = canvas.size
    length = float(rng.uniform(0.35, 1.0)) * size
    start = float(rng.uniform(0, size - length))
    x = np.arange(start, start + length, 1.0)
    wave = smooth_line(rng, len(x), 10.0) + 2.0 * smooth_line(rng, len(x), max(12.0, size / 6))
    line = canvas.interface
    if line is not None and 4 < float(line.mean()) < size - 4:
        y = line[np.clip(x.astype(int), 0, size - 1)] + 0.5 * wave
    else:
        y = float(rng.uniform(0.2, 0.8)) * size + np.tan(rng.normal(0, 0.15)) * (x - size / 2) + wave
    open_px = float(np.exp(rng.uniform(np.log(0.8), np.log(max(1.5, size / 45)))))
    lens = np.sin(np.linspace(0, np.pi, len(x))) ** 0.5
    radius = np.maximum(open_px * lens * (1 + 0.4 * smooth_line(rng, len(x), 9.0)), 0.2)
    distance = stamp(size, y, x, radius)
    cover = coverage(distance)
    shine = np.clip(1 - np.abs(np.roll(distance, -2, axis=0)), 0, 1)
    canvas.grey += np.float32(rng.uniform(0.0, 0.2)) * shine * (1 - cover)
    blend(canvas, cover * np.float32(rng.uniform(0.5, 1.0)), np.minimum(canvas.grey - 0.12, np.float32(0.06)), -1.5)
    canvas.streaks *= 1 - cover
    return PaintedFlaw(cover)


def _blowhole(canvas: Canvas, recipe: Recipe, rng: np.random.Generator) -> PaintedFlaw:
    size = canvas.size
    count = int(rng.integers(1, 4))
    smallest = min(max(3.0, 1.6 * recipe.pore_px), size / 12)
    radius = np.exp(rng.uniform(np.log(smallest), np.log(max(min(size / 7, 24.0), 1.3 * smallest)), count))
    y, x = rng.uniform(0.1 * size, 0.9 * size, (2, count))
    distance = stamp(
        size, y, x, radius, aspect=rng.uniform(1, 1.6, count), angle=rng.uniform(0, np.pi, count), wobble=0.12, rng=rng
    )
    cover = coverage(distance, 1.4)
    rim = np.exp(-np.square(distance - 1) / np.float32(2.0)) * (1 - cover)
    canvas.grey += np.float32(rng.uniform(-0.05, 0.2)) * rim
    depth = np.float32(rng.uniform(0.4, 1.0)) * (0.7 + 0.3 * np.clip(-distance / 4, 0, 1))
    inner = np.float32(0.06) + np.float32(0.05) * smooth_noise(rng, size, 3.0)
    blend(canvas, cover * depth, np.minimum(canvas.grey - np.float32(0.12), inner), -2.0)
    canvas.streaks *= 1 - cover
    return PaintedFlaw(cover, solid=True)


def _pore_cluster(canvas: Canvas, recipe: Recipe, rng: np.random.Generator) -> PaintedFlaw:
    size = canvas.size
    count = int(rng.integers(12, 60))
    reach = float(rng.uniform(0.06, 0.16)) * size
    y0, x0 = rng.uniform(0.2 * size, 0.8 * size, 2)
    y, x = y0 + rng.standard_normal(count) * reach, x0 + rng.standard_normal(count) * reach
    radius = np.exp(rng.normal(np.log(float(rng.uniform(0.9, 2.2))), 0.35, count))
    distance = stamp(
        size, y, x, radius, aspect=rng.uniform(1, 1.8, count), angle=rng.uniform(0, 3, count), wobble=0.15, rng=rng
    )
    cover = coverage(distance, 1.2)
    blend(canvas, cover * np.float32(rng.uniform(0.45, 0.95)), np.minimum(canvas.grey - 0.1, np.float32(0.08)), -1.5)
    canvas.streaks *= 1 - cover
    return PaintedFlaw(cover)


def _polygon(
    size: int, y: float, x: float, radius: float, rng: np.random.Generator, sides: int, aspect: float
) -> Field:
    """Return the signed distance to a convex polygon."""
    ramp = np.arange(size, dtype=np.float32)
    turn = float(rng.uniform(0, np.pi))
    dy, dx = (ramp - np.float32(y))[:, None], ramp - np.float32(x)
    along = (dx * np.cos(turn) + dy * np.sin(turn)).astype(np.float32) / np.float32(aspect**0.5)
    across = (dy * np.cos(turn) - dx * np.sin(turn)).astype(np.float32) * np.float32(aspect**0.5)
    angles = (np.arange(sides) + rng.uniform(-0.3, 0.3, sides)) * (2 * np.pi / sides)
    distance = np.full((size, size), -np.inf, dtype=np.float32)
    for angle in angles:
        edge = along * np.float32(np.cos(angle)) + across * np.float32(np.sin(angle))
        np.maximum(distance, edge - np.float32(radius * rng.uniform(0.75, 1.1)), out=distance)
    return distance


def _abnormal_grain(canvas: Canvas, recipe: Recipe, rng: np.random.Generator) -> PaintedFlaw:
    size = canvas.size
    radius = float(np.clip(recipe.grain_px * rng.uniform(1.4, 3.0), 9, size / 4))
    y, x = rng.uniform(0.2 * size, 0.8 * size, 2)
    aspect = float(rng.choice([1.0, 1.3, 2.5]))
    distance = _polygon(size, float(y), float(x), radius, rng, int(rng.integers(5, 9)), aspect)
    distance += np.float32(0.8) * smooth_noise(rng, size, 5.0)
    cover = coverage(distance)
    tone = recipe.matrix + float(rng.choice([-1.0, 1.0])) * (0.04 + abs(float(rng.normal(0, recipe.grain_contrast))))
    body = np.float32(tone) + np.float32(0.012) * smooth_noise(rng, size, radius)
    # A single crystal is smooth: it has no boundaries, grooves or facets inside, only enclosed pores.
    mean_height = float((canvas.height * cover).sum() / max(float(cover.sum()), 1.0))
    canvas.grey += cover * (body - canvas.grey)
    canvas.height += cover * (np.float32(mean_height) - canvas.height)
    swallowed = int(rng.poisson(6))
    if swallowed:
        at = rng.normal(0, radius * 0.35, (2, swallowed))
        dots = coverage(stamp(size, y + at[0], x + at[1], rng.uniform(0.8, 2.0, swallowed))) * cover
        blend(canvas, dots, 0.12)
    edge = np.clip(np.float32(1.2) - np.abs(distance), 0, 1)
    blend(canvas, edge, canvas.grey + np.float32(recipe.boundary_contrast), -0.3)
    return PaintedFlaw(np.maximum(cover, edge), solid=True)


def _inclusion(canvas: Canvas, recipe: Recipe, rng: np.random.Generator) -> PaintedFlaw:
    size = canvas.size
    radius = float(np.exp(rng.uniform(np.log(3.0), np.log(max(6.0, size / 9)))))
    y, x = (float(v) for v in rng.uniform(0.15 * size, 0.85 * size, 2))
    if rng.uniform() < 0.5:
        distance = _polygon(size, y, x, radius, rng, int(rng.integers(4, 8)), float(rng.uniform(1, 1.8)))
    else:
        distance = stamp(size, y, x, radius, aspect=float(rng.uniform(1, 1.8)), angle=1.0, wobble=0.2, rng=rng)
    cover = coverage(distance)
    here = float(canvas.grey[int(y), int(x)])
    offset = float(rng.uniform(0.12, 0.45))
    tone = here + offset if here < 0.45 or (here < 0.6 and rng.uniform() < 0.5) else here - offset
    body = np.float32(tone) + np.float32(0.04) * cloud_noise(rng, size, 6.0, 2)
    blend(canvas, cover, body, 0.8)
    if rng.uniform() < 0.5:  # the particle shrinks away from the matrix
        gap = np.clip(np.float32(0.9) - np.abs(distance - np.float32(0.5)), 0, 1) * np.float32(rng.uniform(0.3, 0.9))
        blend(canvas, gap, np.minimum(canvas.grey - 0.1, np.float32(0.1)))
        cover = np.maximum(cover, gap)
    canvas.streaks *= 1 - cover
    return PaintedFlaw(cover, solid=True)


def _scratch(canvas: Canvas, recipe: Recipe, rng: np.random.Generator) -> PaintedFlaw:
    size = canvas.size
    heading = float(rng.uniform(0, np.pi))
    lines: list[FlawPath] = []
    radii = []
    half_width = float(np.exp(rng.uniform(np.log(0.4), np.log(1.8))))
    for _ in range(int(rng.integers(1, 4))):
        path = curved_path(rng, size, heading + float(rng.normal(0, 0.06)), float(rng.uniform(0.4, 1.2)) * size)
        lines.append(path)
        radii.append(np.maximum(half_width * path.taper, 0.25))
    distance = stamp(
        size,
        np.concatenate([path.y for path in lines]),
        np.concatenate([path.x for path in lines]),
        np.concatenate(radii),
    )
    cover = coverage(distance)
    tone = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(0.12, 0.35))
    blend(canvas, cover, canvas.grey + np.float32(tone), -0.8)
    return PaintedFlaw(cover)


def _fray(canvas: Canvas, recipe: Recipe, rng: np.random.Generator) -> PaintedFlaw:
    size = canvas.size
    radius = float(rng.uniform(0.1, 0.28)) * size
    y, x = (float(v) for v in rng.uniform(0.25 * size, 0.75 * size, 2))
    distance = stamp(
        size, y, x, radius, aspect=float(rng.uniform(1, 2)), angle=float(rng.uniform(0, 3)), wobble=0.2, rng=rng
    )
    distance = np.minimum(distance, np.float32(radius)) + np.float32(1.5) * smooth_noise(rng, size, 3.0)
    cover = coverage(distance, 2.0)
    # A worn surface has no relief or grinding marks, another grey, and a fine roughness.
    tone = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(0.06, 0.2))
    mean = float((canvas.grey * cover).sum() / max(float(cover.sum()), 1.0))
    rough = np.float32(0.035) * cloud_noise(rng, size, 4.0, 2)
    blend(canvas, cover * np.float32(rng.uniform(0.5, 0.9)), np.float32(mean + tone) + rough)
    canvas.height *= 1 - cover * np.float32(0.8)
    canvas.streaks *= 1 - cover * np.float32(0.8)
    return PaintedFlaw(cover, solid=True)


def _break(canvas: Canvas, recipe: Recipe, rng: np.random.Generator) -> PaintedFlaw:
    size = canvas.size
    side = int(rng.integers(4))
    ramp = np.arange(size, dtype=np.float32)
    depth = float(rng.uniform(0.06, 0.2)) * size
    centre, width = float(rng.uniform(0, size)), float(rng.uniform(0.15, 0.4)) * size
    # A chip is deepest at its centre and becomes shallow along the edge.
    profile = depth * np.exp(-(np.abs((ramp - centre) / width) ** 3)) - 2 + 1.5 * smooth_line(rng, size, 6.0)
    profile = profile.astype(np.float32)
    distance = ramp[:, None] - profile + np.float32(0.8) * smooth_noise(rng, size, 3.0)
    distance = np.asarray(np.rot90(distance, side), dtype=np.float32)
    cover = coverage(distance, 1.5)
    dark = rng.uniform() < 0.6
    tone = float(rng.uniform(0.03, 0.15)) if dark else float(np.clip(recipe.matrix + 0.25, 0, 0.95))
    body = np.float32(tone) + np.float32(0.06) * cloud_noise(rng, size, 8.0, 3)
    blend(canvas, cover, body)
    canvas.height += cover * (np.float32(1.5) * cloud_noise(rng, size, 10.0, 3) - canvas.height - 3)
    canvas.streaks *= 1 - cover
    return PaintedFlaw(np.ascontiguousarray(cover), solid=True)


def _uneven(canvas: Canvas, recipe: Recipe, rng: np.random.Generator) -> PaintedFlaw:
    size = canvas.size
    ramp = np.arange(size, dtype=np.float32)
    angle = float(rng.choice([0.0, np.pi / 2])) + float(rng.normal(0, 0.15))
    across = ramp[:, None] * np.float32(np.cos(angle)) - ramp * np.float32(np.sin(angle))
    across = across - np.float32(across.mean())
    edge = float(rng.uniform(-0.3, 0.3)) * size
    width = float(rng.uniform(0.15, 0.5)) * size if rng.uniform() < 0.5 else 2.0 * size
    distance = np.abs(across - np.float32(edge + width / 2)) - np.float32(width / 2)
    distance += np.float32(1.5) * smooth_noise(rng, size, max(8.0, size / 10))
    cover = coverage(np.asarray(distance, np.float32), float(np.exp(rng.uniform(np.log(1.5), np.log(size / 10)))))
    tone = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(0.06, 0.2))
    canvas.grey += cover * np.float32(tone)
    canvas.streaks *= 1 + cover * np.float32(rng.choice([-0.8, -0.4, 0.6]))
    return PaintedFlaw(cover, solid=True)


PAINTERS: dict[str, Callable[[Canvas, Recipe, np.random.Generator], PaintedFlaw]] = {
    "crack": _crack,
    "blowhole": _blowhole,
    "pore_cluster": _pore_cluster,
    "abnormal_grain": _abnormal_grain,
    "inclusion": _inclusion,
    "delamination": _delamination,
    "scratch": _scratch,
    "fray": _fray,
    "break": _break,
    "uneven": _uneven,
}
"""Painters of the local flaws. A counterfeit is not a local flaw; it has a different recipe."""
