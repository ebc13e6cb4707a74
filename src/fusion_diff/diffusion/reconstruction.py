"""The diffusion path: add noise to a tile, denoise it given the authentic references, and measure the residual."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from fusion_diff.diffusion.prior import DiffusionPrior
    from fusion_diff.encoder.dual_path import DualPathEncoder

STRENGTH = 0.5
NOISE_SEED = 0
CHANNELS = 2
"""Residuals per token: in the encoder's texture maps and in pixels."""


class ReconstructionPath:
    """Reconstructs tiles with the frozen prior, conditioned on the authentic references."""

    def __init__(self, prior: DiffusionPrior, encoder: DualPathEncoder) -> None:
        self.prior = prior
        self.encoder = encoder

    def reconstruct(self, pixels: Tensor, condition: Tensor) -> Tensor:
        """Return the reconstruction of tiles by the prior.

        Args:
            pixels: (B, 3, T, T) in [0, 1].
            condition: (tokens, condition width), the mean condition of the authentic references.

        Returns:
            (B, 3, T, T) in [0, 1]. The noise is the same at every call, so the result is reproducible.
        """
        return self.prior.regenerate(pixels, condition, strength=STRENGTH, noise=NOISE_SEED)

    def residual(self, pixels: Tensor, condition: Tensor) -> Tensor:
        """Return the absolute difference of tiles and their reconstruction per token, (B, 2, T/8, T/8)."""
        rebuilt = self.reconstruct(pixels, condition)
        norm = self.encoder.local_norm
        seen = self.encoder.local_path.texture(pixels)
        given_back = self.encoder.local_path.texture(rebuilt)
        texture = (norm(seen) - norm(given_back)).abs().mean(1, keepdim=True)
        brightness = F.adaptive_avg_pool2d((pixels - rebuilt).abs().mean(1, keepdim=True), texture.shape[-2:])
        return torch.cat([texture, brightness], dim=1)
