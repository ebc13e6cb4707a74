"""Reconstruction evidence: what the prior, told what is authentic, could not give back."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.evidence.base import LearnsFrom, Paths


class ReconstructionEvidence:
    """Residuals, in deviations from those of authentic tokens."""

    name: ClassVar[str] = "reconstruction"
    kinds: ClassVar[tuple[str, ...]] = ("reconstruction",)
    learns_from: ClassVar[LearnsFrom] = "any"

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean = mean  # (R,)
        self.std = std  # (R,)

    @classmethod
    def fit(cls, authentic: Sequence[Bag], others: Sequence[Bag], paths: Paths) -> ReconstructionEvidence:
        """Measure the residuals of authentic tokens; the other bags are not used."""
        residuals = torch.cat([bag.residual for bag in authentic])
        return cls(residuals.mean(0), residuals.std(0).clamp_min(1e-6))

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return the mean standardised residual (n,)."""
        return {"reconstruction": ((residual - self.mean) / self.std).mean(1)}

    def state(self) -> dict[str, Tensor]:
        """Return the statistics."""
        return {"mean": self.mean, "std": self.std}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> ReconstructionEvidence:
        """Rebuild the statistics."""
        return cls(state["mean"], state["std"])
