"""Distances of tokens: to their nearest neighbour in a bank, and to a Gaussian fitted to others (Mahalanobis)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def closeness(tokens: Tensor, bank: Tensor) -> Tensor:
    """Return `t·b - |b|²/2` (n, m) of tokens (n, C) and a bank (m, C): greatest for the nearest neighbour.

    As `|t - b|² = |t|² - 2 (t·b - |b|²/2)`, it takes one matrix product. That of all channels is the sum of those of
    parts of them.
    """
    return F.linear(tokens, bank, bank.square().sum(1) / -2)


def to_nearest(tokens: Tensor, closeness: Tensor) -> Tensor:
    """Return the Euclidean distance (n,) of tokens (n, C) to their nearest neighbour, given their closeness (n, m)."""
    return (tokens.square().sum(1) - 2 * closeness.amax(1)).clamp_min(0).sqrt()


def nearest(tokens: Tensor, bank: Tensor) -> Tensor:
    """Return the Euclidean distance (n,) of tokens (n, C) to their nearest neighbour in a bank (m, C)."""
    return to_nearest(tokens, closeness(tokens, bank))


def gaussian(tokens: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Return the mean (C,) and precision matrix (C, C) of tokens (n, C).

    Args:
        tokens: tokens of authentic references.
        shrinkage: weight, in (0, 1), of a multiple of the identity in the covariance. A handful of references cannot
            determine the full covariance.
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
    """Return a whitening matrix (C, C): distances in `tokens @ matrix` are Mahalanobis distances of tokens (n, C)."""
    factor: Tensor = torch.linalg.cholesky(gaussian(tokens, shrinkage)[1])
    return factor
