"""Scope: whether a micrograph is of the kind that the references are of at all, before anything is said about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusion_diff.fewshot.bags import OWN, compared, sample_tokens
from fusion_diff.fewshot.distance import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

SCOPE_BANK = 512
"""Half of what evidence takes: the mean over a whole micrograph needs no finer bank, and every tile is compared with
it."""
DEVIATIONS = 4.0
"""A micrograph this many deviations stranger than references are to each other is out of scope."""
SMALLEST_DEVIATION = 0.05
"""Few references can be alike by chance: their deviation counts for at least this share of their strangeness."""


@dataclass(frozen=True, eq=False)
class Scope:
    """Tokens of all references, whatever their class.

    The strangeness of a micrograph is the mean distance of its tokens to the nearest of these. A flaw fills few tokens
    and moves it little; another material, magnification or subject moves it much.

    Attributes:
        bank: (m, C) standardised tokens of the global path.
        limit: strangeness above this is out of scope.
    """

    bank: Tensor
    limit: float

    @classmethod
    def fit(cls, tokens: Sequence[Tensor], groups: Sequence[str]) -> Scope:
        """Remember references, and how strange each is to those of other groups.

        Args:
            tokens: standardised tokens (n, C) of the global path of each reference.
            groups: specimen of each; references of a single specimen are compared with each other.
        """
        own = [
            nearest(sample_tokens([each], OWN), sample_tokens(rest, SCOPE_BANK)).mean()
            for each, rest in compared(tokens, groups)
        ]
        strangeness = torch.stack(own)
        mean = float(strangeness.mean())
        deviation = float(strangeness.std())
        # Rounded as it is stored.
        bank = sample_tokens(tokens, SCOPE_BANK).half().float()
        return cls(bank, mean + DEVIATIONS * max(deviation, SMALLEST_DEVIATION * mean))

    def distances(self, tokens: Tensor) -> Tensor:
        """Return how far standardised tokens (n, sum of all paths) are from any reference, (n,)."""
        return nearest(tokens[:, -self.bank.shape[1] :], self.bank)
