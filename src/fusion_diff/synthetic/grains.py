"""Polycrystals as Laguerre (power) tessellations of seeds whose weights follow a log-normal size distribution.

The Laguerre cell of a seed c with weight w is the set of points where |x - c|^2 - w is smallest. With each seed lifted
to the height sqrt(max w - w), this becomes a nearest-neighbour search in three dimensions (Aurenhammer, "Power
diagrams", SIAM J. Comput. 16, 1987). A k-d tree is queried once per block of pixels, and the candidates of a block are
compared pixel by pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.synthetic.fields import smooth_noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LATHS = 0.3  # share of the grains of an elongated microstructure that are laths


@dataclass(frozen=True, eq=False)
class Grains:
    """A section through a polycrystal.

    Attributes:
        labels: int32 (S, S), the grain at each pixel, in [0, count).
        boundary: float32 (S, S), distance in pixels to the wall of the second-nearest cell. Except for a few pixels at
            junctions, this is the nearest boundary.
        count: number of labels, including unused ones.
    """

    labels: NDArray[np.int32]
    boundary: NDArray[np.float32]
    count: int


def tessellate(
    rng: np.random.Generator,
    size: int,
    diameter: float,
    spread: float = 0.3,
    *,
    elongation: float = 1.0,
    flatten: float = 1.0,
    waviness: float = 0.04,
) -> Grains:
    """Draw a polycrystal.

    Args:
        rng: source of randomness.
        size: side of the image in pixels.
        diameter: mean grain diameter in pixels (of the circle of equal area).
        spread: standard deviation of the logarithm of the grain radius.
        elongation: ratio of length to width of randomly oriented grains (laths); 1 gives equiaxed grains.
        flatten: ratio of width to height, the same for all grains (splats, rolled or pressed texture).
        waviness: depth of the waves of boundaries, in grain diameters.

    Returns:
        The grains.
    """
    diameter = max(diameter, 2.0)
    width = diameter / np.sqrt(max(elongation, 1.0))
    squeeze = np.sqrt(flatten)
    scale = np.asarray([squeeze, 1 / squeeze], dtype=np.float64)  # pixel rows and columns to the seeds' own space
    extent = size * scale
    seeds, owner, weights, count = _seeds(rng, extent, diameter, width, elongation, spread)

    from scipy.spatial import cKDTree

    lifted = np.column_stack([seeds, np.sqrt(weights.max() - weights)])
    block = int(np.clip(2 ** np.floor(np.log2(width / squeeze * 0.75)), 4, 16))
    across = -(-size // block)
    corner = np.arange(across) * block
    centre = corner + (block - 1) / 2
    queries = np.zeros((across * across, 3))
    queries[:, 0] = np.repeat(centre * scale[0], across)
    queries[:, 1] = np.tile(centre * scale[1], across)
    wanted = min(len(seeds), 10 if elongation < 1.5 and flatten == 1 else 16)
    _, near = cKDTree(lifted).query(queries, k=wanted)

    inner = np.arange(block)
    rows = (corner[:, None, None, None] + inner[None, None, :, None]) * scale[0]
    columns = (corner[None, :, None, None] + inner[None, None, None, :]) * scale[1]
    shape = (across, across, block, block)
    rows = np.broadcast_to(rows, shape).astype(np.float32)
    columns = np.broadcast_to(columns, shape).astype(np.float32)
    if waviness > 0:
        full = across * block
        for field in (rows, columns):
            bend = smooth_noise(rng, full, max(diameter / 3, 2.0)) * np.float32(waviness * diameter)
            field += bend.reshape(across, block, across, block).transpose(0, 2, 1, 3)
    first, second, gap = _two_nearest(
        rows.reshape(across * across, -1), columns.reshape(across * across, -1), near, seeds, weights, owner
    )
    seed_y, seed_x = seeds[:, 0].astype(np.float32), seeds[:, 1].astype(np.float32)
    between = np.hypot(seed_y[first] - seed_y[second], seed_x[first] - seed_x[second])
    # The wall between two cells is straight, so its distance follows from the difference of the power distances.
    distance = gap / (2 * between + np.float32(1e-3))

    def unblock(blocks: NDArray[np.generic]) -> NDArray[np.generic]:
        image = blocks.reshape(shape).transpose(0, 2, 1, 3).reshape(across * block, across * block)
        return np.ascontiguousarray(image[:size, :size])

    labels = unblock(owner[first].astype(np.int32))
    return Grains(np.asarray(labels, np.int32), np.asarray(unblock(distance), np.float32), count)


def _seeds(
    rng: np.random.Generator,
    extent: NDArray[np.float64],
    diameter: float,
    width: float,
    elongation: float,
    spread: float,
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.float64], int]:
    """Return seed positions (M, 2), the grain each belongs to (M,), weights (M,) and the number of grains."""
    step = diameter * np.sqrt(np.pi) / 2
    margin = 2 * diameter
    rows, columns = (np.arange(-margin, side + margin, step) for side in extent)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    centres = grid + rng.uniform(-0.5, 0.5, grid.shape) * step
    count = len(centres)
    radius = np.exp(np.clip(rng.standard_normal(count) * spread, -1.2, 0.8))  # grains outside would be abnormal
    weight = (width / 2 * radius) ** 2
    if elongation < 1.5:
        return centres, np.arange(count), weight, count
    # A lath is a chain of heavy seeds with one label. Small equiaxed grains lie between the laths.
    links = np.where(rng.uniform(size=count) < _LATHS, np.maximum(2, np.rint(1.6 * elongation * radius)), 1).astype(int)
    angle = np.repeat(rng.uniform(0, np.pi, count), links)
    owner = np.repeat(np.arange(count), links)
    place = np.arange(links.sum()) - np.repeat(np.cumsum(links) - links, links) - (np.repeat(links, links) - 1) / 2
    along = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    heavy = np.where(links > 1, weight + (0.75 * width) ** 2, weight)
    return centres[owner] + (place * 0.6 * width)[:, None] * along, owner, heavy[owner], count


def _two_nearest(
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
    near: NDArray[np.intp],
    seeds: NDArray[np.float64],
    weights: NDArray[np.float64],
    owner: NDArray[np.intp],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Return the nearest seed, the nearest seed of another grain, and the difference of their power distances."""
    seed_y, seed_x = seeds[:, 0].astype(np.float32), seeds[:, 1].astype(np.float32)
    weight = weights.astype(np.float32)
    best = np.full(rows.shape, np.inf, dtype=np.float32)
    next_best = best.copy()
    first = np.zeros(rows.shape, dtype=np.int32)
    second = np.zeros(rows.shape, dtype=np.int32)
    plain = len(owner) == owner[-1] + 1
    owner = owner.astype(np.int32)
    for rank in range(near.shape[1]):
        seed = near[:, rank].astype(np.int32)[:, None]
        dy, dx = rows - seed_y[seed], columns - seed_x[seed]
        power = dy * dy + dx * dx - weight[seed]
        closer = power < best
        loser, loser_power = np.where(closer, first, seed), np.maximum(power, best)
        rival = loser_power < next_best
        if not plain:
            rival &= owner[first] != owner[seed]
        np.copyto(second, loser, where=rival)
        np.copyto(next_best, loser_power, where=rival)
        np.minimum(best, power, out=best)
        np.copyto(first, np.broadcast_to(seed, first.shape), where=closer)
    gap = np.where(np.isfinite(next_best), next_best - best, np.float32(1e4))
    return first, second, gap
