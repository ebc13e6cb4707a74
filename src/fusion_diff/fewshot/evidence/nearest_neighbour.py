"""Nearest-neighbour evidence: novelty and likeness, from distances to banks of tokens of both sides.

Novelty is the distance of a token to its nearest authentic neighbour, as in PatchCore (Roth et al. 2022). It uses only
the last path, the global one, because fine texture is new in every micrograph.

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
from fusion_diff.fewshot.distance import nearest
from fusion_diff.fewshot.evidence.base import Stored, units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.evidence.base import LearnsFrom, Paths

NOVELTY_WEIGHT = 2.0
"""Weight of the global path's novelty, in the sum with other evidence or with other paths."""


@dataclass(eq=False)
class NearestNeighbourEvidence(Stored):
    """Novelty and likeness of tokens, from two banks per path: authentic tokens and tokens of the other classes.

    It is learned only with references of both sides; with authentic ones alone, `NoveltyEvidence` takes its place.
    Distances are standardised by those between authentic references of different specimens.
    """

    name: ClassVar[str] = "nearest-neighbour"
    kinds: ClassVar[tuple[str, ...]] = ("novelty", "likeness")
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
        """Return the novelty (n,) in the last path, and the likeness (n,) summed over paths."""
        parts = torch.split(tokens, [bank.shape[1] for bank in self.authentic], dim=1)
        likeness: list[Tensor] = []
        for part, inside, outside, (_, nearer) in zip(parts, self.authentic, self.others, self.scales, strict=True):
            distance = nearest(part, inside)
            likeness.append((distance - nearest(part, outside) - nearer[0]) / nearer[1])
        far = self.scales[-1, 0]
        novelty = NOVELTY_WEIGHT * (distance - far[0]) / far[1]
        return {"novelty": novelty, "likeness": sum(likeness[1:], start=likeness[0])}
