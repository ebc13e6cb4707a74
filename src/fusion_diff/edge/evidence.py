"""The evidence on one micrograph, by an exported graph, gathered tile by tile without torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.errors import CheckpointError
from fusion_diff.fewshot.classes import top_limit
from fusion_diff.fewshot.readings import greatest, kind_scores
from fusion_diff.micrograph.tiles import Grid
from fusion_diff.verdict.evidence import MicrographEvidence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fusion_diff.edge.exported import Exported
    from fusion_diff.edge.runtime import Runtime
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.micrograph.tiles import Tile

Batch = tuple[list["Tile"], "NDArray[np.float32]", "NDArray[np.float32]"]


@dataclass(frozen=True, eq=False)
class EdgeEvidence(MicrographEvidence):
    """The evidence on one micrograph, with what names its class and the references that it resembles.

    Attributes:
        similarity: (references,) cosine similarity of mean tokens.
        products: (classes,) dot product of each prototype with the mean of the tokens of highest evidence.
    """

    similarity: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def of(cls, micrograph: Micrograph, graph: Runtime, exported: Exported, batch: int) -> EdgeEvidence:
        """Run a graph over the tiles of a micrograph, `batch` at a time, while the next tiles are read.

        Raises:
            CheckpointError: the graph cannot be run, or its outputs are not valid.
        """
        grid = Grid.of(micrograph.height, micrograph.width, tile=exported.tile, stride=exported.stride)
        kinds = len(exported.kinds)
        maps = np.zeros((kinds + 1, grid.rows, grid.columns), dtype=np.float32)
        strange, tokens, alike = 0.0, 0.0, np.zeros(len(exported.references))
        limit = top_limit(grid.rows * grid.columns)
        strongest = np.zeros((0, len(exported.classes)), dtype=np.float32)
        strength = np.zeros(0, dtype=np.float32)
        for tiles, pixels, keep in _read_ahead(micrograph, grid, batch):
            dense, sums, likeness = graph(pixels, keep)
            _check(exported, len(tiles), dense, sums, likeness)
            tokens = tokens + sums.sum(0, dtype=np.float64)
            alike += likeness.sum(0, dtype=np.float64)
            for values, tile in zip(dense, tiles, strict=True):
                kept = values[:, *tile.inside]
                maps[:, slice(*tile.rows), slice(*tile.columns)] = kept[: kinds + 1]
                strange += float(kept[kinds + 1].sum(dtype=np.float64))
                level = kept[kinds].ravel()
                products = kept[kinds + 2 :].reshape(len(exported.classes), len(level)).T
                best = greatest(level, limit)
                strength, strongest = np.r_[strength, level[best]], np.r_[strongest, products[best]]
                best = greatest(strength, limit)
                strength, strongest = strength[best], strongest[best]
        evidence = maps[kinds]
        scores = kind_scores({kind: values.ravel() for kind, values in zip(exported.kinds, maps, strict=False)})
        fused, contributions = exported.fusion.judge(scores, exported.calibration.slope)
        return cls(
            grid=grid,
            evidence=evidence,
            fused=fused,
            log_odds=exported.calibration.log_odds(fused),
            contributions=contributions,
            strangeness=strange / (grid.rows * grid.columns),
            similarity=alike / max(float(np.linalg.norm(tokens)), 1e-12),
            products=strongest.mean(0, dtype=np.float64),
        )


def _read_ahead(micrograph: Micrograph, grid: Grid, batch: int) -> Iterator[Batch]:
    """Read tiles and stretch their contrast in a separate thread, one batch ahead."""
    waiting = grid.tiles()

    def read() -> Batch | None:
        tiles = list(islice(waiting, batch))
        if not tiles:
            return None
        keep = np.zeros((len(tiles), grid.side, grid.side), dtype=np.float32)
        for each, tile in zip(keep, tiles, strict=True):
            each[tile.inside] = 1
        return tiles, np.stack([grid.read(micrograph, tile) for tile in tiles]), keep

    if grid.rows == grid.columns == grid.side:  # a single tile: a thread is not worth starting
        first = read()
        assert first is not None
        yield first
        return
    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(read)
        while (ready := pending.result()) is not None:
            pending = reader.submit(read)
            yield ready


def _check(exported: Exported, count: int, *arrays: NDArray[np.float32]) -> None:
    dense, sums, alike = arrays
    shape = (count, exported.channels, exported.side, exported.side)
    shapes = dense.shape == shape and sums.shape[:-1] == (count,) and alike.shape == (count, len(exported.references))
    if not shapes or not all(np.isfinite(each).all() for each in arrays):
        raise CheckpointError(
            f"{exported.name}: the graph returned the shapes {dense.shape}, {sums.shape} and {alike.shape} where "
            f"{shape} was expected first, or values that are not finite; export the model again"
        )
