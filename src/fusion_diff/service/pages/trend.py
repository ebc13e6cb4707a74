"""Control charts over the scores of one model, to detect drift. Scores are charted as log-odds, which are unbounded.

Limits of single scores follow Shewhart's individuals chart: the mean of the first scores, and their standard deviation
from the mean moving range (Montgomery, Introduction to Statistical Quality Control, ch. 6). Drift is an exponentially
weighted moving average (Roberts, Technometrics 1959), which shows small lasting shifts. Both limits use Student's t and
the standard error of the mean, because mean and deviation come from few scores. Without that, eight scores would raise
false alarms thirty times too often.

Images of one specimen that follow one another have scores alike. Then moving ranges are too small, and averages vary
more than of independent scores. So the deviation is at least that of the sample, and the limits of averages are widened
as for a first-order autoregressive process (Lu and Reynolds, J. Quality Technology 1999).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BASELINE = 50
"""Number of first scores that set the limits. Until then, every new score updates them."""
FEWEST = 8
"""Fewest scores that limits are computed from."""
WEIGHT = 0.2
"""Weight of the newest score in the moving average."""
FALSE_ALARMS = 0.0027
"""Share of scores or averages beyond the limits by chance: that of three standard deviations."""

_SPREAD_OF_RANGE = 1.128  # mean range of two normal values, in deviations
_SMALLEST, _MOST_ALIKE = 1e-3, 0.9


@dataclass(frozen=True)
class Baseline:
    """Mean and standard deviation of a model's first scores.

    Attributes:
        mean: mean of their log-odds.
        deviation: standard deviation of one score, from the mean moving range; at least that of the sample.
        count: number of scores.
        correlation: of one score with the next, between 0 and `_MOST_ALIKE`.
    """

    mean: float
    deviation: float
    count: int
    correlation: float

    @classmethod
    def of(cls, first: Sequence[float]) -> Baseline | None:
        """Return the baseline of a model's first log-odds; None if there are fewer than `FEWEST`."""
        if len(first) < FEWEST:
            return None
        ranges = [abs(after - before) for before, after in pairwise(first)]
        moving = sum(ranges) / len(ranges) / _SPREAD_OF_RANGE
        mean, sample = fmean(first), max(_SMALLEST, stdev(first))
        alike = sum((before - mean) * (after - mean) for before, after in pairwise(first))
        alike /= (len(first) - 1) * sample**2
        return cls(mean, max(moving, sample), len(first), min(_MOST_ALIKE, max(0.0, alike)))

    @property
    def limits(self) -> tuple[float, float]:
        """Limits of single log-odds. Some 3 in 1,000 lie beyond by chance, on average over baselines."""
        width = self._width * math.sqrt(1 + self._inflation(1) / self.count)
        return self.mean - width, self.mean + width

    @cached_property
    def _width(self) -> float:
        """Half width of the limits if the mean were known; Student's t accounts for the estimated deviation."""
        from scipy.special import stdtrit

        # degrees of freedom of the mean moving range, by its variance (Cryer and Ryan, J. Quality Technology 1990)
        freedom = (self.count - 1) ** 2 / (2 * (0.8264 * self.count - 1.082))
        return float(stdtrit(freedom, 1 - FALSE_ALARMS / 2)) * self.deviation

    def _inflation(self, fall: float) -> float:
        """Return how many times the variance of independent scores an average has whose weights fall by this factor."""
        alike = self.correlation * fall
        return (1 + alike) / (1 - alike)

    def averages(self, values: Sequence[float]) -> list[float]:
        """Return the moving average after each of the log-odds, oldest first."""
        average, out = self.mean, []
        for value in values:
            average += WEIGHT * (value - average)
            out.append(average)
        return out

    def half_width(self, count: int) -> float:
        """Return the half width of the limits of the moving average after `count` scores."""
        left = (1 - WEIGHT) ** count  # weight left of the initial mean
        recent = WEIGHT / (2 - WEIGHT) * (1 - left**2) * self._inflation(1 - WEIGHT)
        return self._width * math.sqrt(recent + (1 - left) ** 2 * self._inflation(1) / self.count)

    def beyond(self, values: Sequence[float]) -> list[int]:
        """Return the indices at which the moving average lies beyond its limits."""
        return [
            place
            for place, average in enumerate(self.averages(values))
            if abs(average - self.mean) > self.half_width(place + 1)
        ]
