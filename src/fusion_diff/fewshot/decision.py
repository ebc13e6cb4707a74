"""From a fused score to a probability, p-values and a decision; torch is loaded only to fit a calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Decision = Literal["authentic", "not authentic", "inconclusive"]
CALIBRATION_RIDGE = 0.02
ROUNDING = 1e-9
"""A sum of thirds and sevenths may come out that much too large."""
OTHERS_AWAY = 2.0
"""Deviations by which others are taken to lie from authentic references where none is known."""


@dataclass(frozen=True)
class Calibration:
    """Log-odds of not being authentic: `slope * fused + intercept`."""

    slope: float
    intercept: float

    @classmethod
    def fit(cls, authentic: NDArray[np.float64], others: NDArray[np.float64]) -> Calibration:
        """Fit to cross-fitted fused scores (Platt 1999, with his softened targets, both sides weighing alike)."""
        import torch

        from fusion_diff.fewshot.evidence.logistic import fit_logistic

        n, m = len(authentic), len(others)
        scores = torch.cat([torch.as_tensor(others), torch.as_tensor(authentic)]).float()[:, None]
        high, low = (m + 1) / (m + 2), 1 / (n + 2)
        targets = torch.cat([torch.full((m,), high), torch.full((n,), low)])
        weights = torch.cat([torch.full((m,), 0.5 / m), torch.full((n,), 0.5 / n)])
        slope, intercept = fit_logistic(scores, targets, weights, CALIBRATION_RIDGE).tolist()
        # Cross-fitting may find no skill at all; it must never turn the evidence upside down.
        return cls(slope, intercept) if slope > 0.05 else cls(0.05, -0.05 * float(scores.mean()))

    @classmethod
    def one_class(cls) -> Calibration:
        """Return the convention used with authentic references alone: even odds at one deviation from them.

        So it is where both sides are normal and alike in deviation, their means `OTHERS_AWAY` apart.
        """
        return cls(OTHERS_AWAY, -(OTHERS_AWAY**2) / 2)

    def log_odds(self, fused: float) -> float:
        """Return the log-odds of not being authentic."""
        return self.slope * fused + self.intercept


def probability(log_odds: float) -> float:
    """Return the probability of being authentic for log-odds of not being so.

    Raises:
        ValueError: they are no number, of which nothing follows.
    """
    if math.isnan(log_odds):
        raise ValueError("the log-odds are no number")
    return 1 / (1 + math.exp(min(50.0, max(-50.0, log_odds))))


def p_value(score: float, references: NDArray[np.float64], shares: NDArray[np.float64] | None = None) -> float:
    """Return the conformal p-value: the share at least as strange as the score, among specimens and its own.

    A new micrograph is exchangeable with specimens, and not with the several images of one, so each specimen has one
    voice (Lee, Barber and Willett 2023). Under that exchangeability the value is at most alpha with probability at
    most alpha (Vovk et al. 2005); with cross-fitted references, as here, up to the small price of cross-conformal
    prediction (Vovk 2015).

    Args:
        score: nonconformity of the micrograph.
        references: (n,) nonconformity of the references of the class in question.
        shares: (n,) of each, see `shares_of`; each is a specimen of its own if omitted.
    """
    shares = np.ones(len(references)) if shares is None else shares
    return float((1 + shares[references >= score].sum()) / (1 + shares.sum()))


def shares_of(groups: Sequence[str]) -> NDArray[np.float64]:
    """Return what part of its specimen's voice each of some references has: one of n of a specimen has 1 / n."""
    _, index, count = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    return np.asarray(1 / count[index], dtype=np.float64)


def specimens_of(shares: NDArray[np.float64]) -> int:
    """Return how many specimens references of these shares are of."""
    return round(float(shares.sum()))


def side_p_values(
    fused: float,
    inside: NDArray[np.float64],
    outside: NDArray[np.float64],
    inside_shares: NDArray[np.float64],
    outside_shares: NDArray[np.float64],
) -> dict[str, float]:
    """Return the conformal p-value of each side that has references; none where too few were there to cross-fit.

    Args:
        fused: the fused score of a micrograph.
        inside: (n,) cross-fitted scores of the authentic references.
        outside: (m,) those of the others.
        inside_shares: (n,) the part of its specimen's voice that each has.
        outside_shares: (m,) the same of the others.
    """
    values = {"authentic": p_value(fused, inside, inside_shares)} if len(inside) else {}
    if len(outside):
        values["not authentic"] = p_value(-fused, -outside, outside_shares)
    return values


def decide(p_values: dict[str, float], alpha: float, specimens: int) -> Decision:
    """Answer with the only side that is not rejected at `alpha`; `inconclusive` when none or both are.

    With authentic references alone there is one p-value, and `authentic` means "not told apart from the references":
    `inconclusive` if these are too few to tell anything apart at `alpha`.

    Args:
        p_values: of each side that has references; `inconclusive` where there are none.
        alpha: error rate, in (0, 1).
        specimens: of the authentic class, as many as stand behind the p-value.
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


def check_alpha(alpha: float) -> None:
    """Refuse what is no error rate.

    Raises:
        ValueError: it is no number, or does not lie between 0 and 1.
    """
    if not isinstance(alpha, Real) or not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, not {alpha!r}")


def specimens_needed(alpha: float) -> int:
    """Return references of how many specimens of a side it takes before its p-value can fall to `alpha`."""
    return math.ceil(1 / alpha - 1e-9) - 1
