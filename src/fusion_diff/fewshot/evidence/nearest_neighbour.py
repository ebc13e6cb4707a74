"""Nearest-neighbour evidence: novelty, outliers and likeness, from distances to banks of tokens of both sides.

Novelty is the distance of a token to its nearest authentic neighbour, as in PatchCore (Roth et al. 2022). It uses only
the last path, the global one, because fine texture is new in every micrograph.

Outliers are measured by the same distance in all paths at once. What a handful of flaws has taught says little about
flaws of another kind, and this does; so it is read by itself (`readings`).

Likeness is the distance to the nearest authentic token minus the distance to the nearest token of the other side: a
nearest-neighbour likelihood ratio (Boiman et al. 2008). It uses all paths. Its mean over a whole micrograph separates
textures.
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
    """Novelty, outliers and likeness, from two banks per path: authentic tokens and tokens of the other classes.

    It is learned only with references of both sides; with authentic ones alone, `NoveltyEvidence` takes its place.
    Distances are standardised by those between authentic references of different specimens; those of outliers are not.
    """

    name: ClassVar[str] = "nearest-neighbour"
    kinds: ClassVar[tuple[str, ...]] = ("novelty", "outliers", "likeness")
    learns_from: ClassVar[LearnsFrom] = "both"

    authentic: list[Tensor]  # (m, C) per path
    others: list[Tensor]  # (m, C) per path
    scales: Tensor  # (paths, 2, 2): mean and standard deviation, of distances and of their difference

    @classmethod
    def fit(cls, authentic: Sequence[Bag], others: Sequence[Bag], paths: Paths) -> NearestNeighbourEvidence:
        """Sample the banks of both sides, and measure the distances between authentic references."""
        inside_banks, outside_banks, scales = [], [], []
        for path in range(len(paths)):
            inside, outside = ([bag.path(paths, path).tokens for bag in side] for side in (authentic, others))
            bank = sample_tokens(outside, BANK)
            far, nearer = [], []
            for tokens, rest in compared(inside, [bag.group for bag in authentic]):
                own = sample_tokens([tokens], OWN)
                far.append(nearest(own, sample_tokens(rest, BANK)))
                nearer.append(far[-1] - nearest(own, bank))
            scales.append(torch.stack([units(torch.cat(far)), units(torch.cat(nearer))]))
            # Rounded to float16, as they are stored, so that a saved model gives exactly the same results.
            inside_banks.append(sample_tokens(inside, BANK).half().float())
            outside_banks.append(bank.half().float())
        return cls(inside_banks, outside_banks, torch.stack(scales))

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return the novelty (n,) in the last path, the distance (n,) in all, and the likeness (n,) summed over paths.

        The banks of all paths hold the same tokens in the same order, so that closeness in them can be added.
        """
        parts = torch.split(tokens, [bank.shape[1] for bank in self.authentic], dim=1)
        close = [closeness(part, bank) for part, bank in zip(parts, self.authentic, strict=True)]
        distances = [to_nearest(part, each) for part, each in zip(parts, close, strict=True)]
        likeness = [
            (distance - nearest(part, outside) - mean) / deviation
            for distance, part, outside, (mean, deviation) in zip(
                distances, parts, self.others, self.scales[:, 1], strict=True
            )
        ]
        mean, deviation = self.scales[-1, 0]
        return {
            "novelty": NOVELTY_WEIGHT * (distances[-1] - mean) / deviation,
            "outliers": to_nearest(tokens, sum(close[1:], start=close[0])),
            "likeness": sum(likeness[1:], start=likeness[0]),
        }
