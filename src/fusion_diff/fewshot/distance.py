"""The distance of tokens to their nearest neighbour in a bank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def nearest(tokens: Tensor, bank: Tensor) -> Tensor:
    """Return the Euclidean distance (n,) of tokens (n, C) to their nearest neighbour in a bank (m, C).

    Uses `|t - b|² = |t|² - 2 (t·b - |b|²/2)`: one matrix product, whose row maximum belongs to the nearest neighbour.
    The square root is then taken of n numbers instead of n × m.
    """
    closeness = F.linear(tokens, bank, bank.square().sum(1) / -2).amax(1)
    return (tokens.square().sum(1) - 2 * closeness).clamp_min(0).sqrt()
