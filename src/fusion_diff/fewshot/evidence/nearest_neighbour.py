"""Nearest-neighbour evidence: how far a token is from anything authentic, and how much nearer to something that is not.

The first half, novelty, is that of PatchCore (Roth et al. 2022). Only the last path, the global one, speaks of it: fine
texture is new everywhere. The second, likeness to what is not authentic, is the difference of the distances to the
nearest token of either side, a nearest-neighbour likelihood ratio (Boiman et al. 2008); every path has a say in it.
Averaged over a whole micrograph it tells textures apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusion_diff.fewshot.bags import BANK, OWN, compared, sample_tokens
from fusion_diff.fewshot.distance import nearest
from fusion_diff.fewshot.evidence.base import units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.evidence.base import LearnsFrom, Paths

NOVELTY_WEIGHT = 2.0


class NearestNeighbourEvidence:
    """Banks of tokens, for each path those of the authentic side and of the other one."""

    name: ClassVar[str] = "nearest-neighbour"
    kinds: ClassVar[tuple[str, ...]] = ("novelty", "likeness")
    learns_from: ClassVar[LearnsFrom] = "both"

    def __init__(self, authentic: list[Tensor], others: list[Tensor], scales: Tensor) -> None:
        self.authentic = authentic  # (m, C) a path
        self.others = others  # (m, C) a path
        self.scales = scales  # (paths, 2, 2): mean and deviation of distance and difference

    @classmethod
    def fit(cls, authentic: Sequence[Bag], others: Sequence[Bag], paths: Paths) -> NearestNeighbourEvidence:
        """Remember tokens of both sides, and how far authentic references lie from each other."""
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
            # Rounded as they are stored, so that a saved model says exactly what it said before.
            inside_banks.append(sample_tokens(inside, BANK).half().float())
            outside_banks.append(bank.half().float())
        return cls(inside_banks, outside_banks, torch.stack(scales))

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return novelty (n,) of the last path, and likeness (n,): the paths' differences added up."""
        parts = torch.split(tokens, [bank.shape[1] for bank in self.authentic], dim=1)
        likeness: list[Tensor] = []
        for part, inside, outside, (_, nearer) in zip(parts, self.authentic, self.others, self.scales, strict=True):
            distance = nearest(part, inside)
            likeness.append((distance - nearest(part, outside) - nearer[0]) / nearer[1])
        far = self.scales[-1, 0]
        novelty = NOVELTY_WEIGHT * (distance - far[0]) / far[1]
        return {"novelty": novelty, "likeness": sum(likeness[1:], start=likeness[0])}

    def state(self) -> dict[str, Tensor]:
        """Return banks and units."""
        banks = {f"authentic.{index}": bank for index, bank in enumerate(self.authentic)}
        banks |= {f"others.{index}": bank for index, bank in enumerate(self.others)}
        return banks | {"scales": self.scales}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> NearestNeighbourEvidence:
        """Rebuild the banks."""
        paths = range(len(state["scales"]))
        return cls([state[f"authentic.{i}"] for i in paths], [state[f"others.{i}"] for i in paths], state["scales"])
