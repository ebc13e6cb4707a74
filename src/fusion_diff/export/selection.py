"""Which parts of the encoder bear 8 bits: each is rounded by itself, and stays in fp32 if that moves the evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.edge.runtime import OnnxRuntime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from fusion_diff.export.int8 import Quantiser

TOLERABLE = 0.1
"""Log-odds, root mean square over tokens, that rounding one part may move the evidence by."""


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
    exact = _evidence(quantiser.source, quantiser.tiles, evidence)
    found = {}
    for index, group in enumerate(quantiser.groups):
        rounded = folder / "one-part.onnx"
        quantiser.write(rounded, [group])
        difference = _evidence(rounded, quantiser.tiles, evidence) - exact
        found[group] = float(np.sqrt(np.square(difference).mean()))
        rounded.unlink()
        if progress:
            progress(index + 1, len(quantiser.groups))
    return found


def choices(lost: dict[str, float]) -> list[list[str]]:
    """Return which parts to round: those that lose little; then, should that be too much, half of these, and so on."""
    bearing = [name for name, loss in sorted(lost.items(), key=lambda item: item[1]) if loss <= TOLERABLE]
    tries = []
    while bearing:
        tries.append(bearing)
        bearing = bearing[: len(bearing) // 2]
    return tries


def _evidence(file: Path, tiles: NDArray[np.float32], channel: int) -> NDArray[np.float32]:
    graph = OnnxRuntime(file, "CPU", None)
    side = tiles.shape[-1] // 8
    keep = np.ones((1, side, side), dtype=np.float32)
    return np.stack([graph(tile[None], keep)[0][0, channel] for tile in tiles])
