"""Perception: a micrograph of any size as tokens, tile by tile and in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fusion_diff.encoder.fusion import STRIDE
from fusion_diff.micrograph.tiles import Grid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusion_diff.diffusion.reconstruction import ReconstructionPath
    from fusion_diff.encoder.fusion import DualPathEncoder
    from fusion_diff.micrograph import Micrograph

BATCH = 8
"""Tiles encoded at once."""


@dataclass(frozen=True, eq=False)
class Part:
    """The tokens one tile answers for.

    Attributes:
        rows: first and last (excluded) row on the micrograph's grid.
        columns: first and last (excluded) column.
        tokens: (n, C), row by row.
        residual: (n, R); R is 0 where the diffusion path was not run.
        condition: (tokens, condition width), what the encoder tells the prior of the tile.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    tokens: Tensor
    residual: Tensor
    condition: Tensor


def perceive(
    micrograph: Micrograph,
    encoder: DualPathEncoder,
    *,
    reconstruction: ReconstructionPath | None = None,
    towards: Tensor | None = None,
) -> tuple[Grid, Iterator[Part]]:
    """Encode a micrograph.

    Args:
        micrograph: the image, of any size.
        encoder: the dual-path encoder, on the device to compute on.
        reconstruction: the diffusion path; left out, there are no residuals.
        towards: (tokens, condition width), the condition to denoise towards.

    Returns:
        The token grid, and its parts as they are computed.
    """
    grid = Grid.of(micrograph.height, micrograph.width, tile=encoder.tile, stride=STRIDE)
    return grid, _parts(micrograph, grid, encoder, reconstruction, towards)


@torch.inference_mode()
def _parts(
    micrograph: Micrograph,
    grid: Grid,
    encoder: DualPathEncoder,
    reconstruction: ReconstructionPath | None,
    towards: Tensor | None,
) -> Iterator[Part]:
    device = next(encoder.parameters()).device
    waiting = grid.tiles()
    while tiles := list(islice(waiting, BATCH)):
        pixels = torch.from_numpy(np.stack([grid.read(micrograph, tile) for tile in tiles])).to(
            device, memory_format=torch.channels_last
        )
        encoding = encoder(pixels)
        if reconstruction is not None and towards is not None:
            residual = reconstruction.residual(pixels, towards)
        else:
            residual = pixels.new_zeros(len(tiles), 0, grid.side, grid.side)
        for index, tile in enumerate(tiles):
            inside = (
                slice(tile.rows[0] - tile.top, tile.rows[1] - tile.top),
                slice(tile.columns[0] - tile.left, tile.columns[1] - tile.left),
            )
            yield Part(
                tile.rows,
                tile.columns,
                encoding.tokens[index][:, *inside].flatten(1).T.contiguous(),
                residual[index][:, *inside].flatten(1).T.contiguous(),
                encoding.condition[index],
            )
