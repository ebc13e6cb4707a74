"""Selects the groups to quantise: each is quantised alone, and those that change the evidence most stay in fp32."""

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
"""Largest changes of the evidence by quantisation (root mean square over tokens, in log-odds), tried in order."""
MAX_TILES = 16
"""Largest number of tiles that the change is measured on."""


def losses(
    quantiser: Quantiser, evidence: int, folder: Path, progress: Callable[[int, int], None] | None
) -> dict[str, float]:
    """Return the change of the evidence if each group alone is quantised: root mean square, in log-odds.

    Args:
        quantiser: quantises groups.
        evidence: channel of the evidence in the graph's dense output.
        folder: folder for temporary files.
        progress: called with the groups measured and their total.
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
    """Return the groups to quantise for each budget: as many as fit, those with the smallest loss first.

    Errors of different groups are taken as independent, so their squares are summed.
    """
    order = sorted(lost, key=lambda name: lost[name])
    total = np.sqrt(np.cumsum([lost[name] ** 2 for name in order]))
    tries = [order[: int((total <= budget).sum())] for budget in BUDGETS]
    return [groups for index, groups in enumerate(tries) if groups and groups not in tries[:index]]


def _evidence(file: Path, tiles: NDArray[np.float32], keep: NDArray[np.float32], channel: int) -> NDArray[np.float32]:
    graph = OnnxRuntime(file, "CPU", None)
    return np.stack([graph(tile[None], keep)[0][0, channel] for tile in tiles])
