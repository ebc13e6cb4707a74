"""The distance of tokens to the nearest of a bank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def nearest(tokens: Tensor, bank: Tensor) -> Tensor:
    """Return the Euclidean distance (n,) of tokens (n, C) to the nearest of a bank (m, C).

    `|t - b|² = |t|² - 2 (t·b - |b|²/2)`: one matrix product, of whose rows the greatest number tells the nearest, so
    that the root is taken of n numbers and not of n times m.
    """
    closeness = F.linear(tokens, bank, bank.square().sum(1) / -2).amax(1)
    return (tokens.square().sum(1) - 2 * closeness).clamp_min(0).sqrt()
