"""Multiple-instance evidence: which tokens make the difference, learned from labels of whole micrographs.

A micrograph that is not authentic holds at least some tokens that no authentic one holds. Which ones is unknown, so the
head guesses, learns, and guesses again: the classic alternation of multiple-instance learning (Andrews et al. 2003,
"mi-SVM"), with the hardest authentic tokens mined as negatives each round (Felzenszwalb et al. 2010). The first guess
decides where that ends: it is the flaw detector's, and without one the tokens least like the authentic ones. Where
flaws are marked the guessing is replaced by the marks.

Each path of the encoder learns by itself and their evidence is added: on few references two classifiers that err
differently beat one that sees everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fusion_diff.fewshot.bags import Bag, sample_tokens, top_count
from fusion_diff.fewshot.evidence.base import units
from fusion_diff.fewshot.evidence.gaussian import gaussian, mahalanobis_squared
from fusion_diff.fewshot.evidence.logistic import NEWTON_STEPS, balanced, fit_logistic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.fewshot.evidence.base import LearnsFrom, Paths

ROUNDS = 10
FLAW_SHARE = 0.02
"""Share of an unmarked micrograph's tokens that are taken for its flaw: few, for sure ones teach more than many."""
HARD_SHARE = 0.2
RIDGE = 1.0
BACKGROUND = 1000
"""Authentic tokens that serve as negatives beside the hardest ones."""
SHRINKAGE = 0.1


class MultipleInstanceEvidence:
    """Linear classifiers of tokens, one for each class that is not authentic and each path; the strongest class speaks.

    The units of the evidence (deviations of authentic tokens) are part of the coefficients.
    """

    name: ClassVar[str] = "multiple-instance"
    kinds: ClassVar[tuple[str, ...]] = ("multiple-instance",)
    learns_from: ClassVar[LearnsFrom] = "both"

    def __init__(self, weights: list[Tensor]) -> None:
        self.weights = weights  # one a path: (classes, C + 1), intercept last

    @classmethod
    def fit(cls, authentic: Sequence[Bag], others: Sequence[Bag], paths: Paths) -> MultipleInstanceEvidence:
        """Learn, path by path and class by class, the tokens that set the other bags apart.

        A crack and a change of firing have little in common: one direction for both would serve neither.
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
        """Return how strongly each token (n,) belongs to a flaw of any class."""
        parts = torch.split(tokens, [w.shape[1] - 1 for w in self.weights], dim=1)
        strongest = [(part @ w[:, :-1].T + w[:, -1]).amax(1) for part, w in zip(parts, self.weights, strict=True)]
        return {"multiple-instance": torch.stack(strongest).sum(0)}

    def state(self) -> dict[str, Tensor]:
        """Return the coefficients."""
        return {f"weights.{index}": w for index, w in enumerate(self.weights)}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> MultipleInstanceEvidence:
        """Rebuild the classifiers."""
        return cls([state[f"weights.{index}"] for index in range(len(state))])


def _fit_one(
    authentic: Sequence[Bag], others: Sequence[Bag], background: Tensor, seen: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the classifier (C + 1,) of one class."""
    chosen = [_choose(bag, mahalanobis_squared(bag.tokens, seen) if bag.suspicion is None else bag.suspicion) for bag in others]
    negatives = sample_tokens([background], 2 * BACKGROUND)
    weights: Tensor | None = None
    for _ in range(ROUNDS):
        positives = torch.cat(chosen)
        truth, importance = balanced(len(positives), len(negatives), positives.device)
        # Each round starts from the last one's coefficients, so few steps bring it home.
        steps = NEWTON_STEPS if weights is None else 3
        weights = fit_logistic(torch.cat([positives, negatives]), truth, importance, RIDGE, weights, steps)
        direction = weights[:-1]
        chosen = [_choose(bag, bag.tokens @ direction) for bag in others]
        hardest = [_highest(bag.tokens, bag.tokens @ direction, HARD_SHARE) for bag in authentic]
        negatives = torch.cat([*hardest, sample_tokens([background], BACKGROUND)])
    assert weights is not None
    return weights


def _choose(bag: Bag, values: Tensor) -> Tensor:
    if bag.mark is not None and bool(bag.mark.any()):  # an empty mark says nothing
        return bag.tokens[bag.mark]
    return _highest(bag.tokens, values, FLAW_SHARE)


def _highest(tokens: Tensor, values: Tensor, share: float) -> Tensor:
    return tokens[values.topk(top_count(len(tokens), share)).indices]
