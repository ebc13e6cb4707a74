"""Suspicion: where a micrograph looks flawed to a detector that has seen flaws of procedural ceramics, and no label.

It is what is known before any reference tells what to look for, so it speaks only where hardly any does: from
`FEW_OTHERS` references of other classes on, what these teach is as good or better (docs/results.md).
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
WEIGHT, WEIGHT_ALONE = 2.0, 1.0
"""Beside references of other classes, and without: then nothing tells that it is flaws that are sought."""


class SuspicionEvidence:
    """The detector's log-odds, in deviations of what authentic tokens get."""

    name: ClassVar[str] = "suspicion"
    kinds: ClassVar[tuple[str, ...]] = ("suspicion",)

    def __init__(self, detector: FlawDetector, scale: Tensor) -> None:
        self.detector = detector
        self.scale = scale  # (2,): mean, and deviation over weight

    @classmethod
    def fit(cls, authentic: Sequence[Bag], detector: FlawDetector, *, alone: bool) -> SuspicionEvidence:
        """Measure what the detector says of authentic tokens, which are `alone` or beside those of other classes."""
        mean, deviation = units(torch.cat([detector.suspicion(bag.tokens) for bag in authentic]))
        return cls(detector, torch.stack([mean, deviation / (WEIGHT_ALONE if alone else WEIGHT)]))

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return how much each token (n,) looks like a flaw."""
        mean, deviation = self.scale
        return {"suspicion": (self.detector(tokens) - mean) / deviation}

    def state(self) -> dict[str, Tensor]:
        """Return the detector's weights, and the units."""
        return self.detector.state_dict() | {"scale": self.scale}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> SuspicionEvidence:
        """Rebuild it.

        Raises:
            ValueError: its weights are not those of a detector.
        """
        weights = {name: value for name, value in state.items() if name != "scale"}
        detector = FlawDetector.of(weights, weights["layers.0.weight"].shape[-1])
        return cls(detector.to(state["scale"].device), state["scale"])
