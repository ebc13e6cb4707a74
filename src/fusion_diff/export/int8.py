"""INT8 quantisation of a graph, group by group, calibrated on the references.

Weights are quantised symmetrically per channel. Activations are quantised to their range on the references' tiles
(static quantisation, Jacob et al. 2018). Results of products stay in fp32 until they are inputs of the next one, after
what lies between: rounded before it as well, they would lose twice as much accuracy and take no less time. Adapters
and the resampling before the DeiT stay in fp32: quantising them costs as much accuracy as quantising the layers beside
them, and they take a hundredth of the time. Each group is first quantised alone, and those that change the evidence
most stay in fp32.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.dependencies import needed
from fusion_diff.edge.exported import INPUTS
from fusion_diff.edge.runtime import OnnxRuntime
from fusion_diff.encoder.dual_path import STRIDE
from fusion_diff.export.onnx_file import silenced
from fusion_diff.micrograph.tiles import Grid
from fusion_diff.whole import naming

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fusion_diff.micrograph import Micrograph

MAX_TILES = 64
"""Largest number of tiles that activation ranges are measured on."""
BUDGETS = (0.2, 0.1, 0.05)
"""Largest changes of the evidence by quantisation (root mean square over tokens, in log-odds), tried in order."""
COMPARED_TILES = 16
"""Largest number of tiles that these changes are measured on."""
_BLOCK = re.compile(r"\.layers\.(\d+)\.(?:.*\.)?(attention|mlp|adapter)\b")
_PRODUCTS = ["Conv", "Gemm", "MatMul"]
_CONVOLUTIONS = 3
"""Convolutions per block of the CNN. The first block has one less, so the stem is counted with it."""


@dataclass(frozen=True)
class Quantiser:
    """Quantises an ONNX file, group by group.

    Attributes:
        source: the graph in fp32.
        ranges: file that caches the activation ranges.
        tiles: (n, 3, T, T) tiles to calibrate on.
        groups: node names by group. A group is quantised as a whole or not at all: a block of the CNN, the attention or
            the MLP of a transformer block, or the distances of the evidence.
    """

    source: Path
    ranges: Path
    tiles: NDArray[np.float32]
    groups: dict[str, list[str]]

    @classmethod
    def of(cls, source: Path, ranges: Path, micrographs: Sequence[Micrograph], *, tile: int) -> Quantiser:
        """Prepare to quantise the graph in a file, calibrated on micrographs.

        Raises:
            DependencyError: onnxruntime or onnx is not installed.
        """
        onnx = needed("exporting", "onnx", "onnx")
        needed("exporting", "onnxruntime", "onnx")
        grids = [Grid.of(each.height, each.width, tile=tile, stride=STRIDE) for each in micrographs]
        places = [(each, grid, cut) for each, grid in zip(micrographs, grids, strict=True) for cut in grid.tiles()]
        chosen = places[:: -(-len(places) // MAX_TILES)]
        tiles = np.stack([grid.read(each, cut) for each, grid, cut in chosen])
        return cls(source, ranges, tiles, _groups(onnx.load(source)))

    @property
    def keep(self) -> NDArray[np.float32]:
        """Ones (1, s, s): the graph's input that keeps all tokens of a tile."""
        side = self.tiles.shape[-1] // STRIDE
        return np.ones((1, side, side), dtype=np.float32)

    def write(self, target: Path, groups: Iterable[str]) -> None:
        """Write the graph with the products of the given groups in 8 bits."""
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        keep = self.keep
        with silenced(logging.getLogger()), naming(target):  # onnxruntime logs advice to the root logger
            quantize_static(
                self.source,
                target,
                _Reader(dict(zip(INPUTS, (tile[None], keep), strict=True)) for tile in self.tiles),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_PRODUCTS,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=[name for group in groups for name in self.groups[group]],
                calibration_cache_path=self.ranges,
                extra_options={"OpTypesToExcludeOutputQuantization": _PRODUCTS},
            )


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
    tiles = quantiser.tiles[:: -(-len(quantiser.tiles) // COMPARED_TILES)]
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


class _Reader:
    """The data reader of onnxruntime's calibration."""

    def __init__(self, inputs: Iterable[dict[str, NDArray[np.float32]]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._inputs, None)


def _groups(model: Any) -> dict[str, list[str]]:
    """Return the names of nodes that multiply by weights, by group."""
    weights = {each.name for each in model.graph.initializer}
    groups: dict[str, list[str]] = {}
    convolutions = 0
    for node in model.graph.node:
        if node.op_type not in _PRODUCTS or not any(name in weights for name in node.input):
            continue
        scopes = next((each.value for each in node.metadata_props if each.key == "pkg.torch.onnx.name_scopes"), "")
        if "global_path.resample" in scopes:
            continue
        block = _BLOCK.search(scopes)
        if "encoder" not in scopes:
            if node.op_type != "Gemm":  # the other products take almost no time
                continue
            name = "distances"
        elif "encoder.global" not in scopes:
            name = f"CNN block {convolutions // _CONVOLUTIONS}"
            convolutions += 1
        elif block is None:
            name = "patches and projection"
        elif block[2] == "adapter":
            continue
        else:
            name = f"DeiT block {block[1]}, {'attention' if block[2] == 'attention' else 'MLP'}"
        groups.setdefault(name, []).append(node.name)
    return groups
