"""Perception: turns a micrograph of any size into tokens, tile by tile and in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice, repeat
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fusion_diff.encoder.dual_path import STRIDE
from fusion_diff.fewshot.bags import Bag
from fusion_diff.fewshot.keypoints import Keypoints
from fusion_diff.micrograph.thumbnail import thumbnail
from fusion_diff.micrograph.tiles import MARGIN, Grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from fusion_diff.diffusion.reconstruction import ReconstructionPath
    from fusion_diff.encoder.dual_path import DualPathEncoder
    from fusion_diff.encoder.flaw_detector import FlawDetector
    from fusion_diff.micrograph import Micrograph

    OfTiles = Callable[[Tensor], Tensor]
    """Computes something of tiles (B, 3, T, T) in [0, 1]."""

MAX_TOKENS = 8192
"""Tokens kept of a reference, those of its mirror image included. This is all of a 512 x 512 micrograph, and a random
sample of a larger one."""
MARKED_TOKENS = 8
"""Marked tokens that are always kept. They are few, so that the sample stays representative of the whole micrograph."""

BATCH = 8
"""Tiles encoded at once on a CPU."""
ACCELERATED_BATCH = 32
"""Tiles encoded, and judged, at once on an accelerator. It is busy with many only (docs/performance.md)."""

SURFACE_SIDE = 768
"""Keypoints are computed on a micrograph reduced to this longer side, in pixels."""


class Networks(Protocol):
    """The networks that process micrographs, and their identity; `DiffusionModel` provides them."""

    name: str
    sha256: str
    encoder: DualPathEncoder
    flaw_detector: FlawDetector | None

    @property
    def reconstruction(self) -> ReconstructionPath:
        """The diffusion path."""


@dataclass(frozen=True, eq=False)
class Part:
    """The tokens that are taken from one tile.

    Attributes:
        rows: first and last (excluded) row on the micrograph's grid.
        columns: first and last (excluded) column.
        tokens: (n, C), row by row.
        residual: (n, R); R is 0 without the diffusion path.
        condition: (tokens, condition width), the tile's condition for the prior.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    tokens: Tensor
    residual: Tensor
    condition: Tensor


def grid_of(micrograph: Micrograph, encoder: DualPathEncoder) -> Grid:
    """Return the token grid of a micrograph."""
    return Grid.of(micrograph.height, micrograph.width, tile=encoder.tile, stride=STRIDE)


def perceive(
    micrograph: Micrograph,
    encoder: DualPathEncoder,
    *,
    purify: OfTiles | None = None,
    residual: OfTiles | None = None,
    mirrored: bool = False,
) -> tuple[Grid, Iterator[Part]]:
    """Encode a micrograph.

    Args:
        micrograph: the image, of any size.
        encoder: the dual-path encoder, on the device to compute on.
        purify: `Purification` of the tiles before anything else.
        residual: `ReconstructionPath.residual` towards a condition; if omitted, there are no residuals.
        mirrored: flip every tile left to right before encoding; tokens keep their positions.

    Returns:
        The token grid, and an iterator over its parts.
    """
    grid = grid_of(micrograph, encoder)
    return grid, _parts(micrograph, grid, encoder, purify, residual, mirrored)


@torch.inference_mode()
def _parts(
    micrograph: Micrograph,
    grid: Grid,
    encoder: DualPathEncoder,
    purify: OfTiles | None,
    residual: OfTiles | None,
    mirrored: bool,
) -> Iterator[Part]:
    device = next(encoder.parameters()).device
    count = BATCH if device.type == "cpu" else ACCELERATED_BATCH
    waiting = grid.tiles()
    while tiles := list(islice(waiting, count)):
        pixels = torch.from_numpy(np.stack([grid.read(micrograph, tile) for tile in tiles])).to(
            device, memory_format=torch.channels_last
        )
        if purify is not None:
            pixels = purify(pixels)
        encoding = encoder(pixels.flip(-1) if mirrored else pixels)
        maps = encoding.tokens.flip(-1) if mirrored else encoding.tokens
        residuals = pixels.new_zeros(len(tiles), 0, grid.side, grid.side) if residual is None else residual(pixels)
        tokens, residuals = _settle(maps), _settle(residuals)
        for index, tile in enumerate(tiles):
            yield Part(
                tile.rows,
                tile.columns,
                tokens[index][:, *tile.inside].flatten(1).T.contiguous(),
                residuals[index][:, *tile.inside].flatten(1).T.contiguous(),
                encoding.condition[index],
            )


def _settle(maps: Tensor) -> Tensor:
    """Replace the outer tokens of tiles (B, C, h, w) by the nearest inner ones.

    Zero padding in the networks makes the outer tokens of a tile unlike all others. Between tiles they are not used. At
    the edge of a micrograph they would be evidence of the edge only.
    """
    inside = maps[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    return F.pad(inside, (MARGIN,) * 4, mode="replicate") if maps.shape[1] else maps


def encode(
    micrograph: Micrograph,
    encoder: DualPathEncoder,
    *,
    mark: NDArray[np.bool_] | None = None,
    purify: OfTiles | None = None,
    residual: OfTiles | None = None,
    twins: bool = False,
) -> tuple[Bag, Tensor]:
    """Encode a whole micrograph at once, as enrolment does with references.

    Args:
        micrograph: the image.
        encoder: the dual-path encoder.
        mark: (H, W), True on a flaw.
        purify: `Purification` of the tiles before anything else.
        residual: `ReconstructionPath.residual` towards a condition; if omitted, there are no residuals.
        twins: after each token, add the token at the same place in the micrograph flipped left to right. A ceramic has
            no preferred side, so this doubles the data of a reference.

    Returns:
        Its tokens, `MAX_TOKENS` at most, rounded to float16 as they are stored; and its mean condition.
    """
    grid, parts = perceive(micrograph, encoder, purify=purify, residual=residual)
    mirrored = perceive(micrograph, encoder, purify=purify, mirrored=True)[1] if twins else repeat(None)
    marks = None if mark is None else torch.from_numpy(grid.pool_mask(mark))
    sample, conditions = _Sample(grid.rows * grid.columns * (2 if twins else 1), MAX_TOKENS), []
    for part, twin in zip(parts, mirrored, strict=twins):
        shown = [part.tokens] if twin is None else [part.tokens, twin.tokens]
        tokens, residuals = _alternating(shown), _alternating([part.residual] * len(shown))
        marked = None
        if marks is not None:
            own = marks[slice(*part.rows), slice(*part.columns)].flatten()
            marked = _alternating([own] * len(shown)).to(tokens.device)
        sample.add(Bag(tokens.half().float(), residuals.half().float(), marked))
        conditions.append(part.condition)
    return sample.drawn(), torch.stack(conditions).mean(0)


def surface(micrograph: Micrograph) -> Keypoints:
    """Return the keypoints of a micrograph of any size, for recognising its surface."""
    return Keypoints.find(thumbnail(micrograph, SURFACE_SIDE))


def _alternating(tensors: list[Tensor]) -> Tensor:
    """Interleave the rows of tensors of one shape (n, ...), so that twins stay adjacent in a bag."""
    return torch.stack(tensors, dim=1).flatten(0, 1)


def thin(bag: Bag, limit: int) -> Bag:
    """Keep at most `limit` random tokens; among them at least `MARKED_TOKENS` marked ones, if there are as many."""
    sample = _Sample(len(bag.tokens), limit)
    sample.add(bag)
    return sample.drawn()


class _Sample:
    """Samples at most `limit` of `count` tokens that arrive in parts, always including some marked ones.

    Every token has a random number, and the tokens with the highest numbers are kept. Dropping tokens early does not
    change the result, so only about `2 * limit` tokens and one part are held at a time.
    """

    def __init__(self, count: int, limit: int) -> None:
        self.limit = limit
        self.numbers = torch.rand(count, generator=torch.Generator().manual_seed(0))
        self.came = 0
        self.bag: Bag | None = None
        self.held = torch.zeros(0)
        """Random numbers of the tokens in the bag."""

    def add(self, bag: Bag) -> None:
        """Add the next tokens."""
        numbers = self.numbers[self.came : self.came + len(bag.tokens)].to(bag.tokens.device)
        self.came += len(numbers)
        if self.bag is not None:
            bag = replace(
                bag,
                tokens=torch.cat([self.bag.tokens, bag.tokens]),
                residual=torch.cat([self.bag.residual, bag.residual]),
                mark=None if self.bag.mark is None or bag.mark is None else torch.cat([self.bag.mark, bag.mark]),
            )
            numbers = torch.cat([self.held, numbers])
        self.bag, self.held = bag, numbers
        if len(numbers) > 2 * self.limit:
            self._drop()

    def drawn(self) -> Bag:
        """Return the sampled tokens, in the order they were added."""
        self._drop()
        assert self.bag is not None
        return self.bag

    def _drop(self) -> None:
        bag, rank = self.bag, self.held
        if bag is None or len(rank) <= self.limit:
            return
        if bag.mark is not None and bool(bag.mark.any()):
            marked = torch.where(bag.mark, rank, -1.0)
            rank = rank.clone()
            rank[marked.topk(min(MARKED_TOKENS, int(bag.mark.sum()))).indices] += 1
        keep = rank.topk(self.limit).indices.sort().values
        mark = None if bag.mark is None else bag.mark[keep]
        self.bag = replace(bag, tokens=bag.tokens[keep], residual=bag.residual[keep], mark=mark)
        self.held = self.held[keep]
