"""Purification: removes adversarial perturbations by adding a little noise and denoising with the prior.

An adversarial perturbation is small and finely tuned. Adding noise to the latents and denoising them removes it, while
the real content is restored (DiffPure, Nie et al. 2022). If purification changes a score more than it changes those of
the references, the micrograph may have been attacked (as in feature squeezing, Xu et al. 2018).

Neither is a guarantee. An attacker who knows of the purification can attack through it, as benchmarks/robustness.py
does (docs/robustness.md). Provable robustness is in `trust.certificate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from fusion_diff.diffusion.prior import DiffusionPrior

STRENGTH = 0.1
"""How far to diffuse. On real coatings, purified scores keep the ranking of the plain ones (correlation 0.93)."""
NOISE_SEED = 1


@dataclass(frozen=True, eq=False)
class Purification:
    """Purifies tiles with the frozen diffusion prior. Gradients flow through it.

    Attributes:
        prior: the diffusion prior.
        condition: (tokens, condition width), the mean condition of the authentic references.
        strength: how far to diffuse the latents, in (0, 1].
        noise_seed: seed of the noise. It is the same for every tile, so verdicts are reproducible and do not depend on
            a tile's place in a batch. None adds no noise, for tiles that already have this level of noise.
    """

    prior: DiffusionPrior
    condition: Tensor
    strength: float = STRENGTH
    noise_seed: int | None = NOISE_SEED

    def __call__(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return purified tiles.

        Args:
            pixels: (B, 3, T, T) in [0, 1].
            noise: standard normal noise that expands to the shape of the latents; generated from `noise_seed` if
                omitted.

        Returns:
            (B, 3, T, T) in [0, 1].
        """
        noise_or_seed = self.noise_seed if noise is None else noise
        return self.prior.regenerate(pixels, self.condition, strength=self.strength, noise=noise_or_seed)
