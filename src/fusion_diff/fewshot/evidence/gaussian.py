"""The authentic tokens as one Gaussian: channels that vary together count together."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian(tokens: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Return mean (C,) and precision (C, C) of tokens (n, C).

    Args:
        tokens: of authentic references.
        shrinkage: share, in (0, 1), of channels that vary alone and alike in the covariance: a handful of references
            cannot tell the whole of it.
    """
    centre = tokens.mean(0)
    covariance = (tokens - centre).T @ (tokens - centre) / len(tokens)
    identity = torch.eye(len(centre), device=tokens.device)
    shrunk = (1 - shrinkage) * covariance + shrinkage * covariance.diagonal().mean() * identity
    return centre, torch.linalg.inv(shrunk + 1e-6 * identity)


def mahalanobis_squared(tokens: Tensor, of: tuple[Tensor, Tensor]) -> Tensor:
    """Return the squared Mahalanobis distance (n,) of tokens (n, C) from the mean of a Gaussian."""
    centre, precision = of
    offset = tokens - centre
    return ((offset @ precision) * offset).sum(1)


def whitening(tokens: Tensor, shrinkage: float) -> Tensor:
    """Return a matrix (C, C): distances of `tokens @ matrix` are Mahalanobis distances of tokens (n, C)."""
    factor: Tensor = torch.linalg.cholesky(gaussian(tokens, shrinkage)[1])
    return factor
