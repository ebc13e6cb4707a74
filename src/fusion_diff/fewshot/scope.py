"""Scope: whether a micrograph shows the same kind of image as the references at all."""

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
"""Tokens in the bank: half as many as for evidence. A mean over a whole micrograph needs no more, and every tile is
compared with the bank."""
DEVIATIONS = 4.0
"""Standard deviations above the references' mean strangeness at which a micrograph is out of scope."""
SMALLEST_DEVIATION = 0.05
"""Least standard deviation, as a share of the mean strangeness, because few references can be alike by chance."""
TOO_FEW = 4
"""With fewer specimens the least deviation grows: two are as far from each other both ways, however others differ."""


@dataclass(frozen=True, eq=False)
class Scope:
    """Detects micrographs that are out of scope, so that no decision is made about them.

    It keeps a bank of tokens of all references, whatever their class. The strangeness of a micrograph is the mean
    distance of its tokens to their nearest neighbour in the bank. A flaw fills few tokens and changes it little;
    another material, magnification or subject changes it much.

    Attributes:
        bank: (m, C) standardised tokens of the global path.
        limit: strangeness above this is out of scope.
    """

    bank: Tensor
    limit: float

    @classmethod
    def fit(cls, tokens: Sequence[Tensor], groups: Sequence[str]) -> Scope:
        """Build the bank, and derive the limit from the strangeness of each reference to those of other groups.

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
        least = SMALLEST_DEVIATION * mean * max(1.0, TOO_FEW / len(set(groups)))
        deviation = max(float(strangeness.std()), least)
        # Rounded to float16, as it is stored.
        bank = sample_tokens(tokens, SCOPE_BANK).half().float()
        return cls(bank, mean + DEVIATIONS * deviation)

    def distances(self, tokens: Tensor) -> Tensor:
        """Return the distance (n,) of standardised tokens (n, channels of all paths) to their nearest neighbour."""
        return nearest(tokens[:, -self.bank.shape[1] :], self.bank)
