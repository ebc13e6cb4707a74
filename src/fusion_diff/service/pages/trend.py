"""Has the process drifted? Control charts over the scores of one model, in log-odds, which do not end at 0 and 1.

Limits follow Shewhart's individuals chart: the mean of the first scores, and deviations by the mean moving range
(Montgomery, Introduction to Statistical Quality Control, ch. 6). Drift follows Roberts' exponentially weighted moving
average (Technometrics 1959), which sees small lasting shifts that single scores hide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BASELINE = 20
"""The first scores, which limits are learned from."""
FEWEST = 8
"""Scores that it takes to say where the limits are."""
WEIGHT = 0.2
"""Of the newest score in the moving average."""
WIDTH = 3.0
"""Limits in deviations."""

_FARTHEST = math.log(999.0)
_SPREAD_OF_RANGE = 1.128  # mean range of two normal values, in deviations
_SMALLEST = 1e-3


def log_odds(score: float) -> float:
    """Return the log-odds of a score, no farther out than those of 0.001 and 0.999."""
    if score <= 0 or score >= 1:
        return math.copysign(_FARTHEST, score - 0.5)
    return min(_FARTHEST, max(-_FARTHEST, math.log(score / (1 - score))))


@dataclass(frozen=True)
class Baseline:
    """What scores were like at first.

    Attributes:
        mean: of their log-odds.
        deviation: of one of them, by the mean moving range.
        count: how many there were.
    """

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, first: Sequence[float]) -> Baseline | None:
        """Return the baseline of the first log-odds of a model; None where there are too few."""
        if len(first) < FEWEST:
            return None
        ranges = [abs(after - before) for before, after in pairwise(first)]
        deviation = sum(ranges) / len(ranges) / _SPREAD_OF_RANGE
        return cls(sum(first) / len(first), max(_SMALLEST, deviation), len(first))

    @property
    def limits(self) -> tuple[float, float]:
        """Where single log-odds stay but for about 3 in 1,000 cases."""
        return self.mean - WIDTH * self.deviation, self.mean + WIDTH * self.deviation

    def averages(self, values: Sequence[float]) -> list[float]:
        """Return the moving average after each of the log-odds, oldest first."""
        average, out = self.mean, []
        for value in values:
            average += WEIGHT * (value - average)
            out.append(average)
        return out

    def half_width(self, count: int) -> float:
        """Return how far the moving average may lie from the mean after so many scores."""
        share = WEIGHT / (2 - WEIGHT) * (1 - (1 - WEIGHT) ** (2 * count))
        return WIDTH * self.deviation * math.sqrt(share)

    def beyond(self, values: Sequence[float]) -> list[int]:
        """Return the places at which the moving average lies beyond its limits."""
        return [
            place
            for place, average in enumerate(self.averages(values))
            if abs(average - self.mean) > self.half_width(place + 1)
        ]
