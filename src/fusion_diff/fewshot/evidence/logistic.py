"""Ridge logistic regression with sample weights, by Newton's method."""

from __future__ import annotations

import torch
from torch import Tensor

NEWTON_STEPS = 12
TOLERANCE = 1e-4


def balanced(positives: int, negatives: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return labels (n,) and sample weights (n,), positives first; the weights of each side sum to 0.5."""
    labels = torch.cat([torch.ones(positives, device=device), torch.zeros(negatives, device=device)])
    weights = torch.cat(
        [
            torch.full((positives,), 0.5 / max(1, positives), device=device),
            torch.full((negatives,), 0.5 / max(1, negatives), device=device),
        ]
    )
    return labels, weights


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    weights: Tensor,
    ridge: float,
    start: Tensor | None = None,
    steps: int = NEWTON_STEPS,
) -> Tensor:
    """Minimise the weighted log loss plus `ridge / 2 * |w|²`, without a penalty on the intercept.

    Args:
        features: (n, C).
        labels: (n,) in [0, 1].
        weights: (n,), summing to about 1.
        ridge: penalty, at least 0.
        start: (C + 1,) initial coefficients; zeros if omitted.
        steps: maximum number of Newton steps.

    Returns:
        (C + 1,) coefficients, the intercept last.
    """
    design = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    penalty = torch.full((design.shape[1],), ridge, device=features.device)
    penalty[-1] = 1e-6
    w = torch.zeros_like(penalty) if start is None else start.clone()
    for _ in range(steps):
        p = torch.sigmoid(design @ w)
        gradient = design.T @ (weights * (p - labels)) + penalty * w
        curvature = (weights * p * (1 - p)).clamp_min(1e-9)
        hessian = (design * curvature[:, None]).T @ design + torch.diag(penalty)
        step = torch.linalg.solve(hessian, gradient)
        # A bounded step keeps Newton's method from overshooting where the data are separable.
        step = step * (5.0 / step.norm().clamp_min(5.0))
        w = w - step
        if float(step.abs().max()) < TOLERANCE:
            break
    return w
