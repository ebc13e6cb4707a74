"""The distance of tokens to their nearest neighbour in a bank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


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
