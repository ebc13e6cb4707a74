"""From a fused score to a probability, p-values and a decision. Torch is imported only to fit a calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from fusion_diff.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

Decision = Literal["authentic", "not authentic", "inconclusive"]
Scores = TypeVar("Scores", float, "NDArray[np.float64]", "Tensor")
CALIBRATION_RIDGE = 0.02
ROUNDING = 1e-9
"""Tolerance for rounding in sums of fractions such as 1/3 and 1/7."""
LEAST_ALPHA = 1e-9
"""Least error rate. No number of references is enough for less."""
OTHERS_AWAY = 2.0
"""Assumed distance of the other side from the authentic one, in standard deviations, without other references."""


@dataclass(frozen=True)
class Calibration:
    """Turns a fused score into the log-odds of not being authentic: `slope * fused + intercept`."""

    slope: float
    intercept: float

    @classmethod
    def fit(cls, authentic: NDArray[np.float64], others: NDArray[np.float64]) -> Calibration:
        """Fit to cross-fitted fused scores (Platt 1999), with equal weight for both sides.

        Targets are softened as by Platt, but by the smaller side's count on both sides: softening each by its own count
        would put even odds nearer to the side with fewer references.
        """
        import torch

        from fusion_diff.fewshot.evidence.logistic import fit_logistic

        n, m = len(authentic), len(others)
        scores = torch.cat([torch.as_tensor(others), torch.as_tensor(authentic)]).float()[:, None]
        low = 1 / (min(n, m) + 2)
        targets = torch.cat([torch.full((m,), 1 - low), torch.full((n,), low)])
        weights = torch.cat([torch.full((m,), 0.5 / m), torch.full((n,), 0.5 / n)])
        slope, intercept = fit_logistic(scores, targets, weights, CALIBRATION_RIDGE).tolist()
        # Cross-fitted scores may not separate the sides at all. The slope stays positive even then.
        return cls(slope, intercept) if slope > 0.05 else cls(0.05, -0.05 * float(authentic.mean() + others.mean()) / 2)

    @classmethod
    def one_class(cls) -> Calibration:
        """Return the convention for authentic references alone: even odds one standard deviation from their mean.

        It follows from two normal distributions of equal standard deviation, with means `OTHERS_AWAY` apart.
        """
        return cls(OTHERS_AWAY, -(OTHERS_AWAY**2) / 2)

    def log_odds(self, fused: Scores) -> Scores:
        """Return the log-odds of not being authentic, of one score or of several."""
        return self.slope * fused + self.intercept

    def adding(self, fused: Scores, log_odds: Scores) -> Scores:
        """Return fused scores whose log-odds are so much higher, as a recognised surface makes them."""
        return fused + log_odds / self.slope


def probability(log_odds: float) -> float:
    """Return the probability of being authentic, given the log-odds of not being authentic.

    Raises:
        ValueError: the log-odds are NaN.
    """
    if math.isnan(log_odds):
        raise ValueError("the log-odds are not a number")
    return 1 / (1 + math.exp(min(50.0, max(-50.0, log_odds))))


def p_value(score: float, references: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    """Return the conformal p-value: the share of specimens, the new one included, that score at least as high.

    A new micrograph is exchangeable with specimens, but not with several images of one specimen. So each specimen has
    a total weight of 1 (Lee, Barber and Willett 2023). Under exchangeability the p-value is at most alpha with
    probability at most alpha (Vovk et al. 2005). References are scored by heads and weights that lack one specimen,
    and for such scores no bound is proved (Barber et al. 2021, the jackknife); in simulations the bound holds
    (benchmarks/error_rate.py).

    Args:
        score: nonconformity of the micrograph.
        references: (n,) nonconformity of the references of the side tested.
        shares: (n,) weight of each, see `shares_of`.
    """
    return float((1 + shares[references >= score].sum()) / (1 + shares.sum()))


def shares_of(groups: Sequence[str]) -> NDArray[np.float64]:
    """Return the weight of each reference in p-values: 1 / n if its specimen has n references."""
    _, index, count = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    return np.asarray(1 / count[index], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class DecisionRule:
    """What the references say of a fused score: its log-odds, its p-values, and which regions to list.

    Attributes:
        calibration: from fused score to log-odds.
        inside: (n,) cross-fitted fused scores of the authentic references, for p-values; empty if there were too few.
        outside: (m,) cross-fitted fused scores of the others; empty if only authentic ones were enrolled.
        inside_shares: (n,) weight of each authentic reference in p-values, see `shares_of`.
        outside_shares: (m,) weight of each other reference.
        region_threshold: evidence (log-odds) above which a region is listed.
    """

    calibration: Calibration
    inside: NDArray[np.float64]
    outside: NDArray[np.float64]
    inside_shares: NDArray[np.float64]
    outside_shares: NDArray[np.float64]
    region_threshold: float

    def p_values(self, fused: float) -> dict[str, float]:
        """Return the conformal p-value of each side that has cross-fitted references, given a fused score."""
        values = {"authentic": p_value(fused, self.inside, self.inside_shares)} if len(self.inside) else {}
        if len(self.outside):
            values["not authentic"] = p_value(-fused, -self.outside, self.outside_shares)
        return values

    @property
    def crossfitted_specimens(self) -> tuple[int, int]:
        """Number of authentic and of other specimens behind the p-values."""
        return round(float(self.inside_shares.sum())), round(float(self.outside_shares.sum()))


def decide(p_values: dict[str, float], alpha: float, specimens: int) -> Decision:
    """Return the only side that is not rejected at `alpha`; `inconclusive` if none or both are rejected.

    With authentic references alone there is one p-value, and `authentic` means "not distinguishable from the
    references". The decision is `inconclusive` if there are too few specimens to reject anything at `alpha`.

    Args:
        p_values: p-value of each side that has references; if empty, the decision is `inconclusive`.
        alpha: error rate, in (0, 1).
        specimens: number of authentic specimens behind the p-value.
    """
    rejected = {side for side, p in p_values.items() if p <= alpha + ROUNDING}
    if len(p_values) == 1:
        if specimens < specimens_needed(alpha):
            return "inconclusive"
        return "not authentic" if rejected else "authentic"
    if rejected == {"authentic"}:
        return "not authentic"
    if rejected == {"not authentic"}:
        return "authentic"
    return "inconclusive"


def check_alpha(alpha: float) -> float:
    """Return an error rate as a float.

    Raises:
        ArgumentError: it is not a number between 0 and 1, or below `LEAST_ALPHA`.
    """
    if not isinstance(alpha, Real) or not LEAST_ALPHA <= alpha < 1:
        raise ArgumentError(f"alpha must lie between 0 and 1, not {alpha!r}")
    return float(alpha)


def specimens_needed(alpha: float) -> int:
    """Return the number of specimens of one side needed for its p-value to reach `alpha`."""
    return math.ceil(1 / alpha - ROUNDING) - 1


def least_p_value(specimens: int) -> float:
    """Return the least p-value that so many specimens of one side allow."""
    return 1 / (specimens + 1)
