"""Heads: all kinds of evidence, learned from the same references and sharing one scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fusion_diff.fewshot.bags import Bag, Scale
from fusion_diff.fewshot.evidence.multiple_instance import MultipleInstanceEvidence
from fusion_diff.fewshot.evidence.nearest_neighbour import NearestNeighbourEvidence
from fusion_diff.fewshot.evidence.novelty import NoveltyEvidence
from fusion_diff.fewshot.evidence.pooled import PooledEvidence
from fusion_diff.fewshot.evidence.reconstruction import ReconstructionEvidence
from fusion_diff.fewshot.evidence.suspicion import SuspicionEvidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from fusion_diff.encoder.flaw_detector import FlawDetector
    from fusion_diff.fewshot.evidence.base import Evidence, LearnedEvidence, Paths

HEADS: tuple[type[LearnedEvidence], ...] = (
    MultipleInstanceEvidence,
    NearestNeighbourEvidence,
    NoveltyEvidence,
    PooledEvidence,
    ReconstructionEvidence,
)
"""Heads that learn from references only."""


def known() -> dict[str, type[Evidence]]:
    """Return all heads by name, including any that a program has added to `HEADS`."""
    heads: tuple[type[Evidence], ...] = (*HEADS, SuspicionEvidence)
    return {head.name: head for head in heads}


@dataclass(frozen=True, eq=False)
class Heads:
    """One head per kind of evidence, by name, with the scale that standardises tokens for all of them."""

    scale: Scale
    heads: dict[str, Evidence]

    @classmethod
    def fit(
        cls,
        bags: Sequence[Bag],
        authentic: NDArray[np.bool_],
        paths: Paths,
        detector: FlawDetector | None = None,
        *,
        suspicious: bool = False,
    ) -> Heads:
        """Learn every kind of evidence that these bags allow.

        Args:
            bags: tokens of each reference.
            authentic: (n,) bool.
            paths: channels of each of the encoder's paths.
            detector: flaw detector, for the first guess of where flaws are.
            suspicious: use the detector's output as evidence, too.
        """
        inside = [bag for bag, is_authentic in zip(bags, authentic, strict=True) if is_authentic]
        outside = [bag for bag, is_authentic in zip(bags, authentic, strict=True) if not is_authentic]
        scale = Scale.of(bag.tokens for bag in inside)
        inside, outside = ([replace(bag, tokens=scale(bag.tokens)) for bag in side] for side in (inside, outside))
        if detector is not None:
            outside = [replace(bag, suspicion=detector(bag.tokens)) for bag in outside]
        heads = [head for head in HEADS if head.learns_from in ("any", "both" if outside else "alone")]
        if bags[0].residual.shape[1] == 0:
            heads = [head for head in heads if head is not ReconstructionEvidence]
        learned: dict[str, Evidence] = {head.name: head.fit(inside, outside, paths) for head in heads}
        if detector is not None and suspicious:
            learned[SuspicionEvidence.name] = SuspicionEvidence.fit(inside, detector, alone=not outside)
        return cls(scale, learned)

    def keep(self, kinds: set[str]) -> Heads:
        """Return only the heads that give one of these kinds; heads without weight are not computed at inspection."""
        return Heads(self.scale, {name: head for name, head in self.heads.items() if kinds & set(head.kinds)})

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return the evidence map (n,) of each kind for tokens (n, C) and residuals (n, R)."""
        return self.judge(self.scale(tokens), residual)

    def judge(self, scaled: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return the evidence map (n,) of each kind for standardised tokens (n, C) and residuals (n, R)."""
        return {kind: values for head in self.heads.values() for kind, values in head.maps(scaled, residual).items()}
