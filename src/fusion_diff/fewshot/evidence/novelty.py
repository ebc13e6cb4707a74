"""Novelty: how far a token is from anything authentic, where authentic references are all there is.

The distance to the nearest of a bank of authentic tokens (PatchCore, Roth et al. 2022), in which what varies most from
one authentic place to the next counts a little less. The last path, the global one, has twice the say of the others:
fine texture is new everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusion_diff.fewshot.bags import BANK, OWN, compared, sample_tokens
from fusion_diff.fewshot.distance import nearest
from fusion_diff.fewshot.evidence.base import units
from fusion_diff.fewshot.evidence.gaussian import whitening
from fusion_diff.fewshot.evidence.nearest_neighbour import NOVELTY_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.evidence.base import LearnsFrom, Paths

SEEN = 20_000
"""Tokens that the covariance is taken of."""
SHRINKAGE = 0.9
"""With less the covariance is that of these very specimens: those left out look stranger than new ones will."""


class NoveltyEvidence:
    """For each path the whitening of its channels, a bank of whitened tokens and the units of distances."""

    name: ClassVar[str] = "novelty"
    kinds: ClassVar[tuple[str, ...]] = ("novelty",)
    learns_from: ClassVar[LearnsFrom] = "alone"

    def __init__(self, whitenings: list[Tensor], banks: list[Tensor], scales: Tensor) -> None:
        self.whitenings = whitenings  # (C, C) a path
        self.banks = banks  # (m, C) a path
        self.scales = scales  # (paths, 2): mean and deviation of distance

    @classmethod
    def fit(cls, authentic: Sequence[Bag], others: Sequence[Bag], paths: Paths) -> NoveltyEvidence:
        """Remember authentic tokens, and how far references lie from each other."""
        whitenings, banks, scales = [], [], []
        groups = [bag.group for bag in authentic]
        for path in range(len(paths)):
            inside = [bag.path(paths, path).tokens for bag in authentic]
            # Rounded as they are stored, so that a saved model says exactly what it said before.
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
        """Return novelty (n,): the paths' distances added up."""
        parts = torch.split(tokens, [matrix.shape[0] for matrix in self.whitenings], dim=1)
        distances = [
            (nearest(part @ matrix, bank) - mean) / deviation
            for part, matrix, bank, (mean, deviation) in zip(
                parts, self.whitenings, self.banks, self.scales, strict=True
            )
        ]
        return {"novelty": sum(distances[:-1], start=NOVELTY_WEIGHT * distances[-1])}

    def state(self) -> dict[str, Tensor]:
        """Return whitenings, banks and units."""
        whitenings = {f"whitening.{index}": matrix for index, matrix in enumerate(self.whitenings)}
        return whitenings | {f"bank.{index}": bank for index, bank in enumerate(self.banks)} | {"scales": self.scales}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> NoveltyEvidence:
        """Rebuild it."""
        paths = range(len(state["scales"]))
        return cls([state[f"whitening.{i}"] for i in paths], [state[f"bank.{i}"] for i in paths], state["scales"])
