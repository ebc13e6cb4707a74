"""Has the process drifted? Control charts over the scores of one model, in log-odds, which do not end at 0 and 1.

Limits follow Shewhart's individuals chart: the mean of the first scores, and deviations by the mean moving range
(Montgomery, Introduction to Statistical Quality Control, ch. 6). Drift follows Roberts' exponentially weighted moving
average (Technometrics 1959), which sees small lasting shifts that single scores hide. Both are as wide as it takes
where mean and deviation are known from few scores only: by Student's t and with the error of the mean, or eight scores
would raise false alarms thirty times too often.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BASELINE = 50
"""The first scores, which limits are learned from; until there are so many, each new one is learned from too."""
FEWEST = 8
"""Scores that it takes to say where the limits are."""
WEIGHT = 0.2
"""Of the newest score in the moving average."""
FALSE_ALARMS = 0.0027
"""Share of scores, or of averages, that chance alone brings beyond the limits: that of three known deviations."""

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
        """Where single log-odds stay but for 3 in 1,000 cases at most, on average over baselines."""
        width = self._width * math.sqrt(1 + 1 / self.count)
        return self.mean - width, self.mean + width

    @cached_property
    def _width(self) -> float:
        """How far a value of this deviation and of a known mean may lie from it, for the deviation is an estimate."""
        from scipy.special import stdtrit

        # degrees of freedom of the mean moving range, by its variance (Cryer and Ryan, J. Quality Technology 1990)
        freedom = (self.count - 1) ** 2 / (2 * (0.8264 * self.count - 1.082))
        return float(stdtrit(freedom, 1 - FALSE_ALARMS / 2)) * self.deviation

    def averages(self, values: Sequence[float]) -> list[float]:
        """Return the moving average after each of the log-odds, oldest first."""
        average, out = self.mean, []
        for value in values:
            average += WEIGHT * (value - average)
            out.append(average)
        return out

    def half_width(self, count: int) -> float:
        """Return how far the moving average may lie from the mean after so many scores."""
        left = (1 - WEIGHT) ** count  # of the mean that the average began with
        return self._width * math.sqrt(WEIGHT / (2 - WEIGHT) * (1 - left**2) + (1 - left) ** 2 / self.count)

    def beyond(self, values: Sequence[float]) -> list[int]:
        """Return the places at which the moving average lies beyond its limits."""
        return [
            place
            for place, average in enumerate(self.averages(values))
            if abs(average - self.mean) > self.half_width(place + 1)
        ]
