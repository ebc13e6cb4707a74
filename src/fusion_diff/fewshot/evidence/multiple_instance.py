"""Multiple-instance evidence: token classifiers learned from labels of whole micrographs.

A micrograph that is not authentic has some tokens that show its flaw, and the label does not say which. The head
alternates between choosing these tokens and fitting a classifier to them, as in multiple-instance learning (mi-SVM,
Andrews et al. 2003). Each round adds the hardest authentic tokens as negatives (Felzenszwalb et al. 2010). The result
depends on the first choice. It is made by the flaw detector, or without one by the distance to the authentic tokens.
Marks, where there are any, replace the choice.

Each path of the encoder has its own classifiers and their evidence is summed. With few references, two classifiers with
different errors are more accurate than one on all channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusion_diff.fewshot.bags import Bag, sample_tokens, top_count
from fusion_diff.fewshot.distance import gaussian, mahalanobis_squared
from fusion_diff.fewshot.evidence.base import Stored, units
from fusion_diff.fewshot.evidence.logistic import NEWTON_STEPS, balanced, fit_logistic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.fewshot.evidence.base import LearnsFrom, Paths

ROUNDS = 10
FLAW_SHARE = 0.02
"""Share of an unmarked micrograph's tokens chosen as its flaw. It is small: a few reliable tokens teach more."""
HARD_SHARE = 0.2
"""Share of an authentic micrograph's tokens used as hard negatives."""
RIDGE = 1.0
BACKGROUND = 1000
"""Random authentic tokens used as negatives in addition to the hardest ones."""
SHRINKAGE = 0.1


@dataclass(eq=False)
class MultipleInstanceEvidence(Stored):
    """Linear token classifiers, one per path and class that is not authentic.

    The evidence of a token is the maximum over classes, summed over paths. The coefficients are scaled so that it is in
    standard deviations of authentic tokens.
    """

    name: ClassVar[str] = "multiple-instance"
    kinds: ClassVar[tuple[str, ...]] = ("multiple-instance",)
    learns_from: ClassVar[LearnsFrom] = "both"

    weights: list[Tensor]  # (classes, C + 1) per path, intercept last

    @classmethod
    def fit(cls, authentic: Sequence[Bag], others: Sequence[Bag], paths: Paths) -> MultipleInstanceEvidence:
        """Fit one classifier per path and class against the authentic tokens.

        Classes are fitted separately, because a crack and a change of firing have little in common.
        """
        labels = sorted({bag.label for bag in others})
        weights = []
        for path in range(len(paths)):
            inside, outside = ([bag.path(paths, path) for bag in side] for side in (authentic, others))
            background = sample_tokens([bag.tokens for bag in inside], 20 * BACKGROUND)
            seen = gaussian(background, SHRINKAGE)
            learned = []
            for name in labels:
                w = _fit_one(inside, [bag for bag in outside if bag.label == name], background, seen)
                mean, deviation = units(background @ w[:-1] + w[-1])
                w[-1] -= mean
                learned.append(w / deviation)
            weights.append(torch.stack(learned))
        return cls(weights)

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return the evidence (n,) that each token belongs to a flaw of any class."""
        parts = torch.split(tokens, [w.shape[1] - 1 for w in self.weights], dim=1)
        strongest = [(part @ w[:, :-1].T + w[:, -1]).amax(1) for part, w in zip(parts, self.weights, strict=True)]
        return {"multiple-instance": torch.stack(strongest).sum(0)}


def _fit_one(
    authentic: Sequence[Bag], others: Sequence[Bag], background: Tensor, seen: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the classifier (C + 1,) of one class, intercept last."""
    chosen = [
        _choose(bag, mahalanobis_squared(bag.tokens, seen) if bag.suspicion is None else bag.suspicion)
        for bag in others
    ]
    negatives = sample_tokens([background], 2 * BACKGROUND)
    weights: Tensor | None = None
    for _ in range(ROUNDS):
        positives = torch.cat(chosen)
        truth, importance = balanced(len(positives), len(negatives), positives.device)
        # Each round starts from the previous coefficients, so a few steps suffice.
        steps = NEWTON_STEPS if weights is None else 3
        weights = fit_logistic(torch.cat([positives, negatives]), truth, importance, RIDGE, weights, steps)
        direction = weights[:-1]
        chosen = [_choose(bag, bag.tokens @ direction) for bag in others]
        hardest = [_highest(bag.tokens, bag.tokens @ direction, HARD_SHARE) for bag in authentic]
        negatives = torch.cat([*hardest, sample_tokens([background], BACKGROUND)])
    assert weights is not None
    return weights


def _choose(bag: Bag, values: Tensor) -> Tensor:
    if bag.mark is not None and bool(bag.mark.any()):  # an empty mark carries no information
        return bag.tokens[bag.mark]
    return _highest(bag.tokens, values, FLAW_SHARE)


def _highest(tokens: Tensor, values: Tensor, share: float) -> Tensor:
    return tokens[values.topk(top_count(len(tokens), share)).indices]
