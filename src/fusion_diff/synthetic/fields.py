"""Two-dimensional building blocks: smooth random fields, and signed distances to many small shapes.

All operations are elementwise NumPy on float32, so the result does not depend on the number of threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Field = NDArray[np.float32]

FAR = 99.0
"""Signed distance, in pixels, where no shape is near."""

# Standard deviation of a white-noise grid interpolated by cubic B-splines, averaged over the cell.
_SPLINE_STD = 0.479


def _spline_taps(size: int, period: float) -> tuple[NDArray[np.intp], Field]:
    """Return the first knot (size,) and the four cubic B-spline weights (4, size) of each pixel."""
    position = np.arange(size) / period
    knot = position.astype(np.intp)
    t = position - knot
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    return knot, weights.astype(np.float32)


def smooth_noise(rng: np.random.Generator, size: int, period_y: float, period_x: float | None = None) -> Field:
    """Return a smooth Gaussian field of zero mean and unit variance.

    Args:
        rng: source of randomness.
        size: side of the square field in pixels.
        period_y: vertical distance between knots, in pixels; features are about twice as large.
        period_x: horizontal distance between knots; equal to `period_y` when omitted.

    Returns:
        float32 (size, size).
    """
    knot_y, weight_y = _spline_taps(size, max(period_y, 1.0))
    knot_x, weight_x = _spline_taps(size, max(period_y if period_x is None else period_x, 1.0))
    grid = rng.standard_normal((int(knot_y[-1]) + 4, int(knot_x[-1]) + 4), dtype=np.float32)
    rows = sum(weight_y[k][:, None] * grid[knot_y + k] for k in range(4))
    field = sum(weight_x[k] * np.take(rows, knot_x + k, axis=1) for k in range(4))
    return np.asarray(field / np.float32(_SPLINE_STD), dtype=np.float32)


def cloud_noise(rng: np.random.Generator, size: int, period: float, octaves: int = 3, stretch: float = 1.0) -> Field:
    """Return a fractal field of about unit variance: octaves of `smooth_noise`, each of half the size and amplitude.

    Args:
        rng: source of randomness.
        size: side in pixels.
        period: knot distance of the first octave, in pixels.
        octaves: number of octaves.
        stretch: vertical elongation (1: isotropic).

    Returns:
        float32 (size, size).
    """
    field = np.zeros((size, size), dtype=np.float32)
    power = 0.0
    for octave in range(octaves):
        gain = 0.5**octave
        field += np.float32(gain) * smooth_noise(rng, size, period * gain * stretch, period * gain)
        power += gain**2
    return np.asarray(field / np.float32(power**0.5), dtype=np.float32)


def smooth_line(rng: np.random.Generator, size: int, period: float) -> Field:
    """Return a smooth Gaussian profile of unit variance, float32 (size,)."""
    knot, weights = _spline_taps(size, max(period, 1.0))
    grid = rng.standard_normal(int(knot[-1]) + 4, dtype=np.float32)
    return np.asarray(sum(weights[k] * grid[knot + k] for k in range(4)) / np.float32(_SPLINE_STD**0.5))


def coverage(signed_distance: Field, softness: float = 1.0) -> Field:
    """Return the covered share of each pixel, in [0, 1], from the signed distance to a shape (negative inside)."""
    return np.asarray(np.clip(np.float32(0.5) - signed_distance / np.float32(softness), 0, 1), dtype=np.float32)


def stamp(
    size: int,
    y: ArrayLike,
    x: ArrayLike,
    radius: ArrayLike,
    *,
    aspect: ArrayLike = 1.0,
    angle: ArrayLike = 0.0,
    wobble: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Field:
    """Return the signed distance to a union of ellipses with wavy outlines.

    Args:
        size: side of the square field in pixels.
        y: rows of the centres, (N,).
        x: columns of the centres, (N,).
        radius: geometric mean of the half-axes in pixels, (N,) or scalar.
        aspect: ratio of long to short half-axis, (N,) or scalar.
        angle: direction of the long axis in radians from the columns' axis, (N,) or scalar.
        wobble: relative depth of the outline's waves (0: none); needs `rng`.
        rng: draws the phases of the waves.

    Returns:
        float32 (size, size): approximate distance in pixels to the nearest outline, negative inside; `FAR` where no
        shape is near.
    """
    y, x = np.atleast_1d(np.asarray(y, np.float32)), np.atleast_1d(np.asarray(x, np.float32))
    count = y.size
    radius, aspect, angle = (np.broadcast_to(np.asarray(a, np.float32), (count,)) for a in (radius, aspect, angle))
    waves = None
    if rng is not None and wobble > 0:
        phase = rng.uniform(0, 2 * np.pi, (3, count))
        waves = (np.asarray([[1.0], [0.7], [0.5]]) * wobble / 1.5 * np.exp(1j * phase)).astype(np.complex64)
    reach = np.ceil(radius * np.sqrt(aspect) * (1 + wobble)).astype(np.intp) + 3
    row, column = np.rint(y).astype(np.intp), np.rint(x).astype(np.intp)
    visible = (row > -reach) & (row < size + reach) & (column > -reach) & (column < size + reach)
    small = reach <= _SMALL
    side = size + 4 * _SMALL
    padded = np.full(side * side, FAR, dtype=np.float32)
    # Small shapes are grouped by window size, for few large array operations. Large ones are drawn one by one.
    for half in range(1, _SMALL + 1):
        chosen = np.flatnonzero(visible & small & (reach == half))
        if not chosen.size:
            continue
        steps = np.arange(-half, half + 1)
        dy = (steps - (y[chosen] - row[chosen])[:, None]).astype(np.float32)[:, :, None]
        dx = (steps - (x[chosen] - column[chosen])[:, None]).astype(np.float32)[:, None, :]
        distance = _distance(dy, dx, radius, aspect, angle, waves, chosen)
        origin = (row[chosen] + 2 * _SMALL) * side + column[chosen] + 2 * _SMALL
        index = origin[:, None, None] + steps[:, None] * side + steps
        np.minimum.at(padded, index.ravel(), distance.ravel())
    field = padded.reshape(side, side)[2 * _SMALL : 2 * _SMALL + size, 2 * _SMALL : 2 * _SMALL + size].copy()
    for shape in np.flatnonzero(visible & ~small):
        half = int(reach[shape])
        top, left = max(int(row[shape]) - half, 0), max(int(column[shape]) - half, 0)
        bottom, right = min(int(row[shape]) + half + 1, size), min(int(column[shape]) + half + 1, size)
        if top >= bottom or left >= right:
            continue
        dy = np.arange(top, bottom, dtype=np.float32)[None, :, None] - y[shape]
        dx = np.arange(left, right, dtype=np.float32)[None, None, :] - x[shape]
        distance = _distance(dy, dx, radius, aspect, angle, waves, np.asarray([shape]))
        window = field[top:bottom, left:right]
        np.minimum(window, distance[0], out=window)
    return field


_SMALL = 10  # maximum reach in pixels of shapes that are drawn together


def _distance(
    dy: Field,
    dx: Field,
    radius: Field,
    aspect: Field,
    angle: Field,
    waves: NDArray[np.complex64] | None,
    chosen: NDArray[np.intp],
) -> Field:
    """Return the signed distances (n, h, w) to the outlines of the chosen shapes at the given offsets."""
    r = radius[chosen, None, None]
    if waves is None and not (aspect[chosen] != 1).any():
        return np.asarray(np.sqrt(dy * dy + dx * dx) - r, dtype=np.float32)
    cos, sin = np.cos(angle[chosen])[:, None, None], np.sin(angle[chosen])[:, None, None]
    root = np.sqrt(aspect[chosen])[:, None, None]
    along, across = (dx * cos + dy * sin) / (r * root), (dy * cos - dx * sin) * (root / r)
    rho = np.sqrt(along * along + across * across)
    if waves is None:
        return np.asarray((rho - 1) * (r / root), dtype=np.float32)
    turn = (along + 1j * across) / (rho + np.float32(1e-6))  # its powers are the waves along the outline
    w = waves[:, chosen, None, None]
    turn2 = turn * turn
    turn3 = turn2 * turn
    wave = (turn2 * w[0] + turn3 * w[1] + turn3 * turn2 * w[2]).real
    return np.asarray((rho - 1 - wave) * (r / root), dtype=np.float32)
