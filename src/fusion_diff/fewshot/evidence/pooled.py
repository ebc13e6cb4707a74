"""Pooled evidence: differences spread over the whole micrograph, such as another paste, firing or grain size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusion_diff.fewshot.evidence.base import Stored
from fusion_diff.fewshot.evidence.logistic import balanced, fit_logistic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.evidence.base import LearnsFrom, Paths

RIDGE = 0.1


@dataclass(eq=False)
class PooledEvidence(Stored):
    """A linear classifier of the mean of every channel over the tokens.

    The score is a mean over tokens. So each token's contribution is exact, and tiles can be processed one by one.
    """

    name: ClassVar[str] = "pooled"
    kinds: ClassVar[tuple[str, ...]] = ("pooled",)
    learns_from: ClassVar[LearnsFrom] = "both"

    weights: Tensor  # (C + 1,), intercept last

    @classmethod
    def fit(cls, authentic: Sequence[Bag], others: Sequence[Bag], paths: Paths) -> PooledEvidence:
        """Fit the classifier to the mean tokens of both sides, on all paths together."""
        pooled = torch.stack([bag.tokens.mean(0) for bag in (*others, *authentic)])
        centre, spread = pooled.mean(0), pooled.std(0).clamp_min(0.05)
        labels, importance = balanced(len(others), len(authentic), pooled.device)
        # Dividing by the square root of their number makes the ridge independent of the number of features.
        unit = (pooled - centre) / spread / pooled.shape[1] ** 0.5
        fitted = fit_logistic(unit, labels, importance, RIDGE / pooled.shape[1] ** 0.5)
        direction = fitted[:-1] / spread / pooled.shape[1] ** 0.5
        return cls(torch.cat([direction, (fitted[-1] - direction @ centre)[None]]))

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return the value (n,) of each token; their mean is the classifier's log-odds for the micrograph."""
        return {"pooled": tokens @ self.weights[:-1] + self.weights[-1]}
