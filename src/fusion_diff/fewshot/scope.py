"""Scope: whether a micrograph is of the kind that the references are of at all, before anything is said about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusion_diff.fewshot.bags import sample_tokens
from fusion_diff.fewshot.distance import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

BANK = 1024
OWN = 300
"""Tokens of each reference by which its own strangeness is measured."""
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
            groups: specimen of each; where all are of one, references are compared with each other.
        """
        apart = groups if len(set(groups)) > 1 else [str(index) for index in range(len(tokens))]
        own = []
        for group in sorted(set(apart)):
            rest = [each for each, other in zip(tokens, apart, strict=True) if other != group]
            asked = [each for each, other in zip(tokens, apart, strict=True) if other == group]
            if not rest:  # a single reference: its one half against the other
                asked, rest = ([half] for half in tokens[0].tensor_split(2))
            bank = sample_tokens(rest, BANK)
            own += [nearest(sample_tokens([each], OWN), bank).mean() for each in asked]
        strangeness = torch.stack(own)
        mean = float(strangeness.mean())
        deviation = float(strangeness.std()) if len(own) > 1 else 0.0
        # Rounded as it is stored.
        bank = sample_tokens(tokens, BANK).half().float()
        return cls(bank, mean + DEVIATIONS * max(deviation, SMALLEST_DEVIATION * mean))

    def distances(self, tokens: Tensor) -> Tensor:
        """Return how far standardised tokens (n, sum of all paths) are from any reference, (n,)."""
        return nearest(tokens[:, -self.bank.shape[1] :], self.bank)
