"""Nearest-neighbour evidence: how far a token is from anything authentic (PatchCore, Roth et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusion_diff.fewshot.bags import sample_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.fewshot.bags import Bag

BANK = 4096
"""Authentic tokens remembered."""


class NearestNeighbourEvidence:
    """A bank of authentic tokens."""

    name: ClassVar[str] = "nearest-neighbour"
    one_class: ClassVar[bool] = True
    dense: ClassVar[bool] = True

    def __init__(self, bank: Tensor) -> None:
        self.bank = bank  # (m, C)

    @classmethod
    def fit(cls, authentic: Sequence[Bag], others: Sequence[Bag]) -> NearestNeighbourEvidence:
        """Remember authentic tokens; the other bags are not used."""
        return cls(sample_tokens([bag.tokens for bag in authentic], BANK))

    def map(self, tokens: Tensor, residual: Tensor) -> Tensor:
        """Return the Euclidean distance (n,) of each token to the nearest remembered one."""
        return torch.cdist(tokens, self.bank).amin(1)

    def state(self) -> dict[str, Tensor]:
        """Return the bank."""
        return {"bank": self.bank}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> NearestNeighbourEvidence:
        """Rebuild the bank."""
        return cls(state["bank"])
