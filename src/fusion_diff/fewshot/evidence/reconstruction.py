"""Reconstruction evidence: the residual between a micrograph and the prior's reconstruction of it.

The prior is conditioned on the authentic references, so what is not authentic is reconstructed worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusion_diff.fewshot.evidence.base import Stored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.evidence.base import LearnsFrom, Paths


@dataclass(eq=False)
class ReconstructionEvidence(Stored):
    """Residuals, standardised by the mean and standard deviation of those of authentic tokens."""

    name: ClassVar[str] = "reconstruction"
    kinds: ClassVar[tuple[str, ...]] = ("reconstruction",)
    learns_from: ClassVar[LearnsFrom] = "any"

    mean: Tensor  # (R,)
    std: Tensor  # (R,)

    @classmethod
    def fit(cls, authentic: Sequence[Bag], others: Sequence[Bag], paths: Paths) -> ReconstructionEvidence:
        """Measure the residuals of authentic tokens; `others` is not used."""
        residuals = torch.cat([bag.residual for bag in authentic])
        return cls(residuals.mean(0), residuals.std(0).clamp_min(1e-6))

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return the standardised residual (n,), averaged over its R channels."""
        return {"reconstruction": ((residual - self.mean) / self.std).mean(1)}
