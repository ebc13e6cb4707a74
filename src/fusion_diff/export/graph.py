"""The exported graph: encoder, heads and enrolled references in one network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_diff.edge.exported import EVIDENCE, STRANGENESS
from fusion_diff.encoder.dual_path import STRIDE
from fusion_diff.micrograph.tiles import MARGIN

if TYPE_CHECKING:
    from fusion_diff.encoder.dual_path import DualPathEncoder
    from fusion_diff.fewshot.verifier import Verifier


class ScoringGraph(nn.Module):
    """Computes, per tile, everything that is summed over the tiles of a micrograph.

    Tiles overlap, and the outer tokens of each repeat the inner ones (`perception`). So evidence is computed for the
    inner tokens only, which saves a quarter, and repeated afterwards.

    Args:
        encoder: the dual-path encoder.
        verifier: the verifier, which must not need the diffusion path.
        signatures: (references, C) mean standardised token of each reference, scaled to unit length.
    """

    def __init__(self, encoder: DualPathEncoder, verifier: Verifier, signatures: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.verifier = verifier
        self.kinds = tuple(verifier.heads.maps(signatures[:1], signatures[:1, :0]))
        self.side = encoder.tile // STRIDE
        self.signatures: Tensor
        self.fold: Tensor
        self.register_buffer("signatures", signatures)
        nearest_inside = torch.arange(self.side).clamp(MARGIN, self.side - MARGIN - 1) - MARGIN
        self.register_buffer("fold", F.one_hot(nearest_inside, self.side - 2 * MARGIN).float())

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of the first output."""
        classes = self.verifier.classes.names
        return (*self.kinds, EVIDENCE, STRANGENESS, *(f"class {name}" for name in classes))

    def forward(self, pixels: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the outputs of tiles.

        Args:
            pixels: (N, 3, T, T) float in [0, 1]; T is the tile side.
            keep: (N, s, s) float, 1 for tokens that are taken from this tile, else 0; s is T/8.

        Returns:
            Dense output (N, channels, s, s): per token, each kind of evidence, the evidence map in log-odds, the
            distance to the nearest reference token, and the dot product with the prototype of each class. Sums (N, C)
            of the standardised tokens that are kept. Dot products (N, references) of these sums with the signatures.
        """
        inner = self.side - 2 * MARGIN
        maps = self.encoder(pixels).tokens[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
        width = maps.shape[1]
        tokens = self.verifier.heads.scale(maps.flatten(2).transpose(1, 2)).reshape(-1, width)
        judged = self.verifier.heads.judge(tokens, tokens[:, :0])
        dense = [judged[kind] for kind in self.kinds]
        dense += [self.verifier.evidence(judged), self.verifier.scope.distances(tokens)]
        values = torch.stack(dense, dim=1)
        if self.verifier.classes.names:
            values = torch.cat([values, tokens @ self.verifier.classes.prototypes.T], dim=1)
        values = values.view(-1, inner, inner, values.shape[1]).permute(0, 3, 1, 2)
        kept = (self.fold.T @ keep @ self.fold).flatten(1).unsqueeze(1)
        sums = (kept @ tokens.view(-1, inner * inner, width)).squeeze(1)
        return F.pad(values, (MARGIN,) * 4, mode="replicate"), sums, sums @ self.signatures.T
