"""Which parts bear 8 bits: each is rounded by itself, and those that move the evidence most stay in fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.edge.runtime import OnnxRuntime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from fusion_diff.export.int8 import Quantiser

BUDGETS = (0.2, 0.1, 0.05)
"""Log-odds, root mean square over tokens, that rounding may move the evidence by; the next if one is too much."""
MAX_TILES = 16
"""Tiles that it is measured on."""


def losses(
    quantiser: Quantiser, evidence: int, folder: Path, progress: Callable[[int, int], None] | None = None
) -> dict[str, float]:
    """Return how far rounding each part alone moves the evidence: root mean square, in log-odds.

    Args:
        quantiser: rounds parts.
        evidence: the evidence's channel in the graph's dense output.
        folder: for files that are written on the way.
        progress: called with parts measured and their number.
    """
    tiles = quantiser.tiles[:: -(-len(quantiser.tiles) // MAX_TILES)]
    exact = _evidence(quantiser.source, tiles, quantiser.keep, evidence)
    found = {}
    for index, group in enumerate(quantiser.groups):
        rounded = folder / "one-part.onnx"
        quantiser.write(rounded, [group])
        difference = _evidence(rounded, tiles, quantiser.keep, evidence) - exact
        found[group] = float(np.sqrt(np.square(difference).mean()))
        rounded.unlink()
        if progress:
            progress(index + 1, len(quantiser.groups))
    return found


def choices(lost: dict[str, float]) -> list[list[str]]:
    """Return which parts to round: as many as keep within each budget, those that lose least first.

    Errors of different parts have nothing to do with each other, so their squares are added up.
    """
    order = sorted(lost, key=lambda name: lost[name])
    total = np.sqrt(np.cumsum([lost[name] ** 2 for name in order]))
    tries = [order[: int((total <= budget).sum())] for budget in BUDGETS]
    return [groups for index, groups in enumerate(tries) if groups and groups not in tries[:index]]


def _evidence(file: Path, tiles: NDArray[np.float32], keep: NDArray[np.float32], channel: int) -> NDArray[np.float32]:
    graph = OnnxRuntime(file, "CPU", None)
    return np.stack([graph(tile[None], keep)[0][0, channel] for tile in tiles])
