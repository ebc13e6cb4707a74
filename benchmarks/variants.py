"""Variants of the encoder and of pooled evidence that ablation.py compares with the shipped ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_diff.encoder.dual_path import Encoding
from fusion_diff.fewshot.evidence.pooled import PooledEvidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.diffusion.prior import DiffusionPrior
    from fusion_diff.encoder.dual_path import DualPathEncoder
    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.evidence.base import Paths

STRENGTH, STEPS = 0.2, 4
"""Strength and steps of the variants of references by the prior; a strength of 0.2 keeps grains in place."""


class Variant(nn.Module):
    """A wrapper around the shipped encoder."""

    def __init__(self, encoder: DualPathEncoder) -> None:
        super().__init__()
        self.inner, self.tile, self.paths = encoder, encoder.tile, encoder.paths


class Gated(Variant):
    """The encoder with one gated mix of both paths as its tokens."""

    def __init__(self, encoder: DualPathEncoder) -> None:
        super().__init__(encoder)
        self.paths = (encoder.fusion.gate.out_channels,)

    def forward(self, pixels: Tensor) -> Encoding:
        seen, projections = self.inner(pixels), self.inner.gate_projections
        mixed = self.inner.fusion(projections[0](seen.texture), projections[1](seen.structure))
        return Encoding(mixed, mixed[:, :0], seen.condition)


class Dihedral(Variant):
    """Tokens averaged over the eight flips and quarter turns of a tile."""

    def forward(self, pixels: Tensor) -> Encoding:
        total, condition = torch.zeros(()), pixels[:0]
        for turn in range(8):
            turned = torch.rot90(pixels.flip(-1) if turn > 3 else pixels, turn, (-2, -1)).contiguous()
            seen = self.inner(turned)
            maps = torch.rot90(seen.tokens, -turn, (-2, -1))
            total = total + (maps.flip(-1) if turn > 3 else maps) / 8
            condition = seen.condition
        return Encoding(total, total[:, :0], condition)


class Coarse(Variant):
    """The tokens of a tile at half its resolution."""

    def forward(self, pixels: Tensor) -> Encoding:
        small = F.interpolate(pixels, scale_factor=0.5, mode="bilinear", antialias=True)
        return self.inner(F.interpolate(small, size=pixels.shape[-2:], mode="bilinear"))


class Imagined(Variant):
    """The tokens of a variant of a tile, which the prior makes given the tile's own condition."""

    def __init__(self, encoder: DualPathEncoder, prior: DiffusionPrior) -> None:
        super().__init__(encoder)
        self.prior = prior

    def forward(self, pixels: Tensor) -> Encoding:
        condition, latents = self.inner(pixels).condition, self.prior.encode(pixels)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
        varied = self.prior.denoise(latents, condition, strength=STRENGTH, steps=STEPS, noise=noise)
        return self.inner(self.prior.decode(varied))


class MeanAndSpread(PooledEvidence):
    """Pooled evidence of the mean and of the spread of every channel."""

    @classmethod
    def fit(cls, authentic: Sequence[Bag], others: Sequence[Bag], paths: Paths) -> MeanAndSpread:
        both = ([replace(bag, tokens=_with_spread(bag.tokens)) for bag in side] for side in (authentic, others))
        return super().fit(*both, paths)

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        return super().maps(_with_spread(tokens), residual)


def _with_spread(tokens: Tensor) -> Tensor:
    return torch.cat([tokens, tokens.abs()], dim=1)
