"""Log-odds as the charts show them, and where on that scale a model's own authentic references lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.fewshot.decision import probability

if TYPE_CHECKING:
    from fusion_diff.fewshot.verifier import Verifier

_FARTHEST = math.log(999.0)


def logit(score: float) -> float:
    """Return the log-odds of being authentic, clipped to those of 0.001 and 0.999."""
    if score <= 0 or score >= 1:
        return math.copysign(_FARTHEST, score - 0.5)
    return min(_FARTHEST, max(-_FARTHEST, math.log(score / (1 - score))))


@dataclass(frozen=True)
class Level:
    """Cross-fitted scores of a model's authentic references, in log-odds of being authentic.

    Attributes:
        low: 10 % quantile.
        middle: median.
        high: 90 % quantile.
    """

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, verifier: Verifier) -> Level | None:
        """Return the level of a model's references; None if there were too few to cross-fit."""
        if not len(verifier.inside):
            return None
        scores = [logit(probability(each)) for each in verifier.calibration.log_odds(verifier.inside).tolist()]
        return cls(*np.quantile(scores, (0.1, 0.5, 0.9)).tolist())
