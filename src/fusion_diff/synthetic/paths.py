"""Paths of cracks and scratches through a microstructure, as points about one pixel apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion_diff.synthetic.fields import Field


@dataclass(frozen=True, eq=False)
class FlawPath:
    """The path of a crack or scratch.

    Attributes:
        y: rows of the points, (N,).
        x: columns of the points, (N,).
        taper: relative width at each point in (0, 1], (N,).
    """

    y: NDArray[np.float64]
    x: NDArray[np.float64]
    taper: NDArray[np.float64]


def curved_path(rng: np.random.Generator, size: int, heading: float, length: float) -> FlawPath:
    """Return a nearly straight line of the given heading (radians) and length (pixels) at a random place."""
    count = max(8, int(length))
    bend = float(rng.normal(0, 0.15)) / length
    t = np.arange(count) - count / 2
    angle = heading + bend * t
    y, x = np.cumsum(np.sin(angle)), np.cumsum(np.cos(angle))
    middle = rng.uniform(0.25 * size, 0.75 * size, 2)
    y, x = y - y.mean() + middle[0], x - x.mean() + middle[1]
    fade = np.minimum(1, 4 * (0.5 - np.abs(t / count)) + 0.1)
    return FlawPath(y, x, fade)


def branching_path(
    rng: np.random.Generator,
    boundary: Field,
    *,
    origin: tuple[float, float] | None = None,
    heading: float | None = None,
    pull: float = 0.5,
) -> FlawPath:
    """Return a crack: a random walk that keeps its heading, is attracted by grain boundaries, and may branch.

    Args:
        rng: source of randomness.
        boundary: float32 (S, S), distance to the nearest grain boundary in pixels.
        origin: row and column of the first point; random when omitted.
        heading: initial direction in radians from the columns' axis; random when omitted.
        pull: strength of the attraction by boundaries (0: straight through the grains).

    Returns:
        The points of the trunk and its branches.
    """
    size = boundary.shape[0]
    length = float(rng.uniform(0.3, 1.1)) * size
    if origin is None:
        origin = (float(rng.uniform(0.1, 0.9)) * size, float(rng.uniform(0.1, 0.9)) * size)
    if heading is None:
        centre = math.atan2(size / 2 - origin[0], size / 2 - origin[1])
        heading = centre + float(rng.normal(0, 0.7))
    trunk = _walk(rng, boundary, origin, heading, length, pull)
    walks = [trunk]
    start_width = float(rng.choice([0.35, 1.0]))
    tapers = [_taper(len(trunk), start_width)]
    for _ in range(int(rng.choice([0, 0, 1, 1, 2, 3]))):
        at = int(rng.integers(len(trunk) // 5, max(len(trunk) // 5 + 1, len(trunk) * 4 // 5)))
        before = trunk[max(at - 6, 0)]
        course = math.atan2(trunk[at][0] - before[0], trunk[at][1] - before[1])
        turn = float(rng.choice([-1, 1])) * float(rng.uniform(0.4, 1.1))
        walk = _walk(rng, boundary, trunk[at], course + turn, length * float(rng.uniform(0.1, 0.4)), pull)
        walks.append(walk)
        tapers.append(0.7 * _taper(len(walk), 1.0))
    points = np.asarray([point for walk in walks for point in walk])
    return FlawPath(points[:, 0], points[:, 1], np.concatenate(tapers))


def _taper(count: int, start: float) -> NDArray[np.float64]:
    t = np.linspace(0, 1, count)
    return np.clip(np.minimum(start + 4 * t, 3.0 * (1 - t) + 0.25), 0.2, 1.0)


def _walk(
    rng: np.random.Generator,
    boundary: Field,
    origin: tuple[float, float],
    heading: float,
    length: float,
    pull: float,
) -> list[tuple[float, float]]:
    size = boundary.shape[0]
    y, x = origin
    general = heading
    points = [(y, x)]
    count = max(6, int(length))
    wander = rng.standard_normal(count) * 0.16
    drift = rng.standard_normal(count) * 0.03
    turns = (-0.5, -0.25, 0.0, 0.25, 0.5)
    for step in range(count):
        general += float(drift[step])
        heading += float(wander[step]) + 0.25 * (general - heading)
        if pull > 0:
            best, choice = math.inf, 0.0
            for turn in turns:
                row, column = int(y + 2.5 * math.sin(heading + turn)), int(x + 2.5 * math.cos(heading + turn))
                if 0 <= row < size and 0 <= column < size:
                    cost = pull * min(float(boundary[row, column]), 4.0) + abs(turn)
                    if cost < best:
                        best, choice = cost, turn
            heading += choice
        y, x = y + math.sin(heading), x + math.cos(heading)
        if not (-3 < y < size + 3 and -3 < x < size + 3):
            break
        points.append((y, x))
    return points
