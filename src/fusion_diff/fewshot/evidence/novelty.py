"""Novelty evidence: the distance of a token to the authentic tokens, with authentic references alone.

It is the distance to the nearest neighbour in a bank of authentic tokens (PatchCore, Roth et al. 2022). Tokens are
whitened first, so that directions in which authentic tokens vary most count slightly less. The last path, the global
one, weighs twice as much as the others, because fine texture is new in every micrograph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusion_diff.fewshot.bags import BANK, OWN, compared, sample_tokens
from fusion_diff.fewshot.distance import nearest, whitening
from fusion_diff.fewshot.evidence.base import Stored, units
from fusion_diff.fewshot.evidence.nearest_neighbour import NOVELTY_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.evidence.base import LearnsFrom, Paths

SEEN = 20_000
"""Tokens sampled to estimate the covariance."""
SHRINKAGE = 0.9
"""With less, the covariance overfits the specimens learned from, and held-out ones score too high."""


@dataclass(eq=False)
class NoveltyEvidence(Stored):
    """Novelty of tokens, from one bank of whitened authentic tokens per path.

    Distances are standardised by those between authentic references of different specimens.
    """

    name: ClassVar[str] = "novelty"
    kinds: ClassVar[tuple[str, ...]] = ("novelty",)
    learns_from: ClassVar[LearnsFrom] = "alone"

    whitening: list[Tensor]  # (C, C) per path
    bank: list[Tensor]  # (m, C) per path
    scales: Tensor  # (paths, 2): mean and standard deviation of distances

    @classmethod
    def fit(cls, authentic: Sequence[Bag], others: Sequence[Bag], paths: Paths) -> NoveltyEvidence:
        """Sample the banks, and measure the distances between references; `others` is not used."""
        whitenings, banks, scales = [], [], []
        groups = [bag.group for bag in authentic]
        for path in range(len(paths)):
            inside = [bag.path(paths, path).tokens for bag in authentic]
            # Rounded to float16, as they are stored, so that a saved model gives exactly the same results.
            matrix = whitening(sample_tokens(inside, SEEN), SHRINKAGE).half().float()
            asked = [tokens @ matrix for tokens in inside]
            far = [
                nearest(sample_tokens([own], OWN), sample_tokens(rest, BANK)) for own, rest in compared(asked, groups)
            ]
            whitenings.append(matrix)
            banks.append(sample_tokens(asked, BANK).half().float())
            scales.append(units(torch.cat(far)))
        return cls(whitenings, banks, torch.stack(scales))

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return the novelty (n,): the weighted sum of the standardised distances of all paths."""
        parts = torch.split(tokens, [matrix.shape[0] for matrix in self.whitening], dim=1)
        distances = [
            (nearest(part @ matrix, bank) - mean) / deviation
            for part, matrix, bank, (mean, deviation) in zip(parts, self.whitening, self.bank, self.scales, strict=True)
        ]
        return {"novelty": sum(distances[:-1], start=NOVELTY_WEIGHT * distances[-1])}
