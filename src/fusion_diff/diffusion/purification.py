"""Purification: the prior repaints a micrograph lightly, and what an attacker wrote into its pixels is painted over.

A perturbation made to move the score is small and finely tuned. Diffusing the micrograph's latents a little and
denoising them again drowns and removes it, while what is really there comes back (DiffPure, Nie et al. 2022). A score
that purification changes more than it changes those of the references is a sign that somebody tuned the micrograph
(as feature squeezing tells, Xu et al. 2018).

No proof goes with either: an attacker who knows of the purification can attack through it, and benchmarks/robustness.py
does. What can be proven is in `trust.certificate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from fusion_diff.diffusion.reconstruction import ReconstructionPath

if TYPE_CHECKING:
    from fusion_diff.diffusion.prior import DiffusionPrior
    from fusion_diff.encoder.fusion import DualPathEncoder, Encoding

STRENGTH = 0.1
"""How far to diffuse. On real coatings the purified scores still rank as the plain ones do (correlation 0.93)."""
NOISE_SEED = 1


class Purified(nn.Module):
    """An encoder that looks at tiles after the prior has purified them.

    It has the encoder's `tile`, `paths` and forward signature, so whatever takes the one takes the other. Gradients
    flow through the purification as well.

    Args:
        encoder: what looks at the purified tiles.
        prior: the frozen diffusion prior.
        condition: (tokens, condition width), the mean condition of the authentic references.
        strength: how far to diffuse the latents, in (0, 1].
        noise_seed: what the noise is drawn from, the same for every tile, so that a verdict can be repeated and does
            not depend on a tile's place in a batch. None adds no noise: for tiles that are as noisy already.
    """

    def __init__(
        self,
        encoder: DualPathEncoder,
        prior: DiffusionPrior,
        condition: Tensor,
        *,
        strength: float = STRENGTH,
        noise_seed: int | None = NOISE_SEED,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.prior = prior
        self.condition: Tensor
        self.register_buffer("condition", condition)
        self.strength = strength
        self.noise_seed = noise_seed

    @property
    def tile(self) -> int:
        """Side of a tile in working pixels."""
        return self.encoder.tile

    def purify(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return purified tiles.

        Args:
            pixels: (B, 3, T, T) in [0, 1].
            noise: standard normal, of the shape of the latents or one that expands to it; drawn from `noise_seed`
                where omitted.

        Returns:
            (B, 3, T, T) in [0, 1].
        """
        return self.prior.repaint(
            pixels,
            self.condition,
            strength=self.strength,
            steps=1,
            noise=self.noise_seed if noise is None else noise,
        )

    def forward(self, pixels: Tensor) -> Encoding:
        """Purify and encode tiles (B, 3, T, T) in [0, 1]."""
        encoding: Encoding = self.encoder(self.purify(pixels))
        return encoding


class PurifiedReconstruction(ReconstructionPath):
    """The diffusion path on purified tiles: an attacker must not reach it around the purification either."""

    def __init__(self, path: ReconstructionPath, purified: Purified) -> None:
        super().__init__(path.prior, path.encoder)
        self.purified = purified

    def residual(self, pixels: Tensor, condition: Tensor) -> Tensor:
        """Return how far purified tiles are from their reconstruction, see `ReconstructionPath.residual`."""
        return super().residual(self.purified.purify(pixels), condition)


def purified_paths(
    path: ReconstructionPath, condition: Tensor, *, residual: bool
) -> tuple[Purified, PurifiedReconstruction | None]:
    """Return the encoder of a diffusion path with purification before it, and the path likewise if it is needed.

    Args:
        path: the encoder and the prior.
        condition: (tokens, condition width), the mean condition of the authentic references.
        residual: whether a verdict needs the residual of the diffusion path.
    """
    purified = Purified(path.encoder, path.prior, condition)
    return purified, PurifiedReconstruction(path, purified) if residual else None
