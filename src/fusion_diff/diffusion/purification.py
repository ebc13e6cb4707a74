"""Purification: removes adversarial perturbations by adding a little noise and denoising with the prior.

An adversarial perturbation is small and finely tuned. Adding noise to the latents and denoising them removes it, while
the real content is restored (DiffPure, Nie et al. 2022). If purification changes a score more than it changes those of
the references, the micrograph may have been attacked (as in feature squeezing, Xu et al. 2018).

Neither is a guarantee. An attacker who knows of the purification can attack through it, as benchmarks/robustness.py
does (docs/robustness.md). Provable robustness is in `trust.certificate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from fusion_diff.diffusion.reconstruction import ReconstructionPath

if TYPE_CHECKING:
    from fusion_diff.diffusion.prior import DiffusionPrior
    from fusion_diff.encoder.fusion import DualPathEncoder, Encoding

STRENGTH = 0.1
"""How far to diffuse. On real coatings, purified scores keep the ranking of the plain ones (correlation 0.93)."""
NOISE_SEED = 1


class Purified(nn.Module):
    """An encoder preceded by purification.

    It can replace the encoder in `perception`, because it has the same `tile` and forward signature. Gradients flow
    through the purification.

    Args:
        encoder: encoder of the purified tiles.
        prior: the frozen diffusion prior.
        condition: (tokens, condition width), the mean condition of the authentic references.
        strength: how far to diffuse the latents, in (0, 1].
        noise_seed: seed of the noise. It is the same for every tile, so verdicts are reproducible and do not depend on
            a tile's place in a batch. None adds no noise, for tiles that already have this level of noise.
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
            noise: standard normal noise that expands to the shape of the latents; generated from `noise_seed` if
                omitted.

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
    """The diffusion path on purified tiles, so that an attack cannot bypass purification through it."""

    def __init__(self, path: ReconstructionPath, purified: Purified) -> None:
        super().__init__(path.prior, path.encoder)
        self.purified = purified

    def residual(self, pixels: Tensor, condition: Tensor) -> Tensor:
        """Return the residual of purified tiles, see `ReconstructionPath.residual`."""
        return super().residual(self.purified.purify(pixels), condition)


def purified_paths(
    path: ReconstructionPath, condition: Tensor, *, residual: bool
) -> tuple[Purified, PurifiedReconstruction | None]:
    """Return the encoder of a diffusion path preceded by purification, and the path itself, too, if it is needed.

    Args:
        path: the encoder and the prior.
        condition: (tokens, condition width), the mean condition of the authentic references.
        residual: whether a verdict needs the residual of the diffusion path.
    """
    purified = Purified(path.encoder, path.prior, condition)
    return purified, PurifiedReconstruction(path, purified) if residual else None
