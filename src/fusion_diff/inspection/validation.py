"""Error rates of a model on micrographs of known class that it has not learned from, with exact limits.

An error is a decision for the wrong side. Inconclusive micrographs are counted too, but not as errors, as `alpha` is
meant.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fusion_diff.fewshot.figures import auroc, macro_f1

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.fewshot.decision import Decision

CONFIDENCE = 0.95
"""Probability that the limits hold; either is exceeded with half of the rest."""


@dataclass(frozen=True)
class Judged:
    """Verdict on a micrograph of known class.

    Attributes:
        name: its name in the set.
        sha256: digest of its file; None where it is unknown.
        label: its class.
        specimen: what it shows.
        authentic: whether its class is the authentic one.
        decision: the model's decision.
        score: probability of being authentic, in [0, 1].
        in_scope: whether the score counts.
    """

    name: str
    sha256: str | None
    label: str
    specimen: str
    authentic: bool
    decision: Decision
    score: float
    in_scope: bool

    @property
    def wrong(self) -> bool:
        """Whether the decision is for the other side."""
        return self.decision == ("not authentic" if self.authentic else "authentic")


@dataclass(frozen=True)
class Rate:
    """Number of errors among so many, at least 1."""

    errors: int
    of: int

    @classmethod
    def of_micrographs(cls, judged: Sequence[Judged]) -> Self:
        """Count micrographs."""
        return cls(sum(each.wrong for each in judged), len(judged))

    @classmethod
    def of_specimens(cls, judged: Sequence[Judged]) -> Self:
        """Count specimens: one is wrong if any of its micrographs is."""
        return cls(len({each.specimen for each in judged if each.wrong}), len({each.specimen for each in judged}))

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Exact two-sided limits of the rate at `CONFIDENCE` (Clopper and Pearson 1934), for independent cases."""
        from scipy.stats import binomtest

        found = binomtest(self.errors, self.of).proportion_ci(CONFIDENCE, method="exact")
        return float(found.low), float(found.high)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, the rate and its limits."""
        low, high = self.limits
        return {"errors": self.errors, "of": self.of, "rate": self.errors / self.of, "low": low, "high": high}


def counts(judged: Sequence[Judged], label: str) -> dict[str, int]:
    """Return how many micrographs and specimens there are of a class, and how many micrographs of which decision."""
    them = [each for each in judged if each.label == label]
    decisions = Counter(each.decision for each in them)
    return {
        "micrographs": len(them),
        "specimens": len({each.specimen for each in them}),
        **{decision: decisions[decision] for decision in ("authentic", "not authentic", "inconclusive")},
        "out of scope": sum(not each.in_scope for each in them),
    }


def error_rates(judged: Sequence[Judged]) -> dict[str, tuple[Rate, Rate]]:
    """Return the rate by micrograph and by specimen of each kind of error.

    Authentic ones that were rejected come first, then the others that were accepted, if there are any, and last each
    of several other classes by itself.
    """
    (authentic,) = {each.label for each in judged if each.authentic}
    others = sorted({each.label for each in judged} - {authentic})
    kinds = {f"{authentic} rejected": [authentic]}
    if others:
        kinds[f"{others[0] if len(others) == 1 else 'others'} accepted"] = others
    if len(others) > 1:
        kinds |= {f"of these, {label}": [label] for label in others}
    of = {kind: [each for each in judged if each.label in labels] for kind, labels in kinds.items()}
    return {kind: (Rate.of_micrographs(them), Rate.of_specimens(them)) for kind, them in of.items()}


def needed(alpha: float) -> int:
    """Return the fewest cases that, without an error among them, have an upper limit of `alpha` or less.

    Args:
        alpha: error rate, in (0, 1).
    """
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log1p(-alpha) - 1e-9)


def figures(judged: Sequence[Judged]) -> dict[str, float]:
    """Return `auroc` of the score, and `macro_f1` at a score of 0.5, of what is in scope; empty where a side lacks."""
    counting = [each for each in judged if each.in_scope]
    truth, scores = (np.array([getattr(each, name) for each in counting]) for name in ("authentic", "score"))
    if not 0 < truth.sum() < len(truth):
        return {}
    return {"auroc": auroc(-scores[truth], -scores[~truth]), "macro_f1": macro_f1(truth, scores >= 0.5)}
