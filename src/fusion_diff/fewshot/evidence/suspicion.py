"""Suspicion evidence: the output of the flaw detector, which was trained on procedural ceramics only.

It needs no labelled reference, so it is used only if there are few of other classes. From `FEW_OTHERS` such references
on, evidence learned from them is as good or better (docs/experiments.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusion_diff.encoder.flaw_detector import FlawDetector
from fusion_diff.fewshot.evidence.base import units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.fewshot.bags import Bag

FEW_OTHERS = 5
"""Suspicion is evidence only with fewer references of other classes than this."""
WEIGHT, WEIGHT_ALONE = 2.0, 1.0
"""Weights with references of other classes, and with authentic ones alone, where the goal may not be flaws."""


class SuspicionEvidence:
    """The flaw detector's log-odds, standardised by those of authentic tokens and multiplied by a weight."""

    name: ClassVar[str] = "suspicion"
    kinds: ClassVar[tuple[str, ...]] = ("suspicion",)

    def __init__(self, detector: FlawDetector, scale: Tensor) -> None:
        self.detector = detector
        self.scale = scale  # (2,): mean, and standard deviation divided by the weight

    @classmethod
    def fit(cls, authentic: Sequence[Bag], detector: FlawDetector, *, alone: bool) -> SuspicionEvidence:
        """Measure the detector's log-odds on authentic tokens; `alone` if there are no references of other classes."""
        mean, deviation = units(torch.cat([detector(bag.tokens) for bag in authentic]))
        return cls(detector, torch.stack([mean, deviation / (WEIGHT_ALONE if alone else WEIGHT)]))

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return the evidence (n,) that each token looks like a flaw."""
        mean, deviation = self.scale
        return {"suspicion": (self.detector(tokens) - mean) / deviation}

    def state(self) -> dict[str, Tensor]:
        """Return the detector's weights, and the mean and scaled standard deviation."""
        return self.detector.state_dict() | {"scale": self.scale}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> SuspicionEvidence:
        """Rebuild the head from its tensors.

        Raises:
            ValueError: the weights are not those of a flaw detector.
        """
        weights = {name: value for name, value in state.items() if name != "scale"}
        detector = FlawDetector.of(weights, weights["layers.0.weight"].shape[-1])
        return cls(detector.to(state["scale"].device), state["scale"])
