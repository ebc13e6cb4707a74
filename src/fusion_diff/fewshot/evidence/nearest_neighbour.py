"""Nearest-neighbour evidence: novelty and outliers, from distances to a bank of authentic tokens.

Novelty is the distance of a token to its nearest authentic neighbour, as in PatchCore (Roth et al. 2022). It uses only
the last path, the global one, because fine texture is new in every micrograph.

Outliers are measured by the same distance in all paths at once. What a handful of flaws has taught says little about
flaws of another kind, and this does; so it is read by itself (`readings`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusion_diff.fewshot.bags import BANK, OWN, compared, sample_tokens
from fusion_diff.fewshot.distance import closeness, nearest, to_nearest
from fusion_diff.fewshot.evidence.base import Stored, units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.evidence.base import LearnsFrom, Paths

NOVELTY_WEIGHT = 2.0
"""Weight of the global path's novelty, in the sum with other evidence or with other paths."""


@dataclass(eq=False)
class NearestNeighbourEvidence(Stored):
    """Novelty and outliers, from a bank of authentic tokens per path.

    It is learned only with references of both sides; with authentic ones alone, `NoveltyEvidence` takes its place.
    Novelty is standardised by distances between authentic references of different specimens; outliers are not.
    """

    name: ClassVar[str] = "nearest-neighbour"
    kinds: ClassVar[tuple[str, ...]] = ("novelty", "outliers")
    learns_from: ClassVar[LearnsFrom] = "both"

    authentic: list[Tensor]  # (m, C) per path
    scale: Tensor  # (2,): mean and standard deviation of distances in the last path

    @classmethod
    def fit(cls, authentic: Sequence[Bag], others: Sequence[Bag], paths: Paths) -> NearestNeighbourEvidence:
        """Sample the banks, and measure the distances between authentic references; `others` is not used."""
        by_path = [[bag.path(paths, path).tokens for bag in authentic] for path in range(len(paths))]
        far = [
            nearest(sample_tokens([own], OWN), sample_tokens(rest, BANK))
            for own, rest in compared(by_path[-1], [bag.group for bag in authentic])
        ]
        # Rounded to float16, as they are stored, so that a saved model gives exactly the same results.
        return cls([sample_tokens(inside, BANK).half().float() for inside in by_path], units(torch.cat(far)))

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return the novelty (n,) in the last path, and the distance (n,) in all paths at once.

        The banks of all paths hold the same tokens in the same order, so that closeness in them can be added.
        """
        parts = torch.split(tokens, [bank.shape[1] for bank in self.authentic], dim=1)
        close = [closeness(part, bank) for part, bank in zip(parts, self.authentic, strict=True)]
        mean, deviation = self.scale
        return {
            "novelty": NOVELTY_WEIGHT * (to_nearest(parts[-1], close[-1]) - mean) / deviation,
            "outliers": to_nearest(tokens, sum(close[1:], start=close[0])),
        }
