"""Fusion: the weighted sum of readings, with weights from how well each separates held-out references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from fusion_diff.errors import ArgumentError
from fusion_diff.fewshot.readings import DEPARTURES, MULTIPLE_INSTANCE, OUTLIERS, READINGS, kinds_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Difference = Literal["any", "whole"]
"""What sets the classes apart: the `whole` micrograph, as by its grain size, or `any` difference, flaws included."""
DOUBT = 1.5
"""Standard errors subtracted from a reading's separation before it becomes a weight, unless it is of local flaws."""
LOCAL = (DEPARTURES, MULTIPLE_INSTANCE, OUTLIERS)
"""Readings of local flaws, the common case: they share the weight as they separate, without having to prove it."""
WHOLE_SHARE = 0.8
"""Share in the weight of readings of the whole micrograph, if the difference is said to be of the whole."""


@dataclass(frozen=True, eq=False)
class Fusion:
    """The fused score: `sum_r weight_r * (score_r - centre_r) / spread_r` over readings r, with weights that sum to 1.

    Attributes:
        centre: midpoint between the mean scores of the two sides, per reading; with one side alone, its mean.
        spread: standard deviation of scores within the sides, per reading.
        weight: weight of each reading; 0 excludes it.
    """

    centre: dict[str, float]
    spread: dict[str, float]
    weight: dict[str, float]

    @classmethod
    def fit(
        cls,
        scores: dict[str, NDArray[np.float64]],
        authentic: NDArray[np.bool_],
        groups: Sequence[str],
        *,
        crossfitted: bool = True,
        difference: Difference = "any",
    ) -> Fusion:
        """Weight each reading by how well it separates the two sides on cross-fitted scores (n,).

        The weight is the separation in within-side standard deviations, at least zero: the weights of a linear
        discriminant with independent readings (Fisher 1936). Few specimens do not tell it well, and images of one
        specimen tell it once. So of readings that are not `LOCAL`, `DOUBT` standard errors are subtracted, and
        departures, which must be among the scores, weigh at least the squared standard error: cross-fitting a handful
        learns from much less than the handful and underrates them. Both fade as specimens are added. If scores are not
        cross-fitted, only departures get a weight. With authentic references alone, all readings weigh the same.

        A handful of references cannot tell a small difference of the whole from chance. Whoever knows what to look for
        can say so: with the difference `whole`, readings of the whole micrograph have `WHOLE_SHARE` of the weight, in
        equal parts, cross-fitted or not.

        Args:
            scores: scores (n,) of each reading.
            authentic: (n,) bool.
            groups: specimen of each reference.
            crossfitted: whether the scores are cross-fitted.
            difference: what sets the two sides apart.
        """
        specimens = [len(set(np.asarray(groups)[side])) for side in (authentic, ~authentic)]
        centre, spread, weight = {}, {}, {}
        for name, values in scores.items():
            inside, outside = values[authentic], values[~authentic]
            if len(outside) == 0:
                centre[name], spread[name], weight[name] = float(inside.mean()), _deviation([inside]), 1.0
                continue
            centre[name] = float(inside.mean() + outside.mean()) / 2
            spread[name] = _deviation([inside, outside])
            separation = float(outside.mean() - inside.mean()) / spread[name]
            variance = sum(1 / count for count in specimens)
            doubt = 0.0 if name in LOCAL else DOUBT * variance**0.5
            least = variance if name == DEPARTURES else 0.0
            weight[name] = max(least, separation - doubt) if crossfitted else least
        if difference == "whole":
            weight = _of_the_whole(weight)
        total = sum(weight.values())
        return cls(centre, spread, {name: value / total for name, value in weight.items()})

    @classmethod
    def held_out(
        cls,
        scores: dict[str, NDArray[np.float64]],
        authentic: NDArray[np.bool_],
        groups: Sequence[str],
        difference: Difference = "any",
    ) -> NDArray[np.float64]:
        """Return the fused score (n,) of each reference, by a fusion that was fitted without its specimen.

        A fusion that has seen a reference favours the readings that happen to set it apart: new micrographs, which it
        has not seen, would be called the other side more often than `alpha` says. Where a side has no other specimen,
        the reference alone is left out.

        Args:
            scores: cross-fitted scores (n,) of each reading; both sides have two references at least.
            authentic: (n,) bool.
            groups: specimen of each reference.
            difference: what sets the two sides apart.
        """
        specimens, fused = np.asarray(groups, dtype=str), np.empty(len(groups))
        for index, specimen in enumerate(specimens):
            rest = specimens != specimen
            if not (authentic[rest].any() and (~authentic[rest]).any()):
                rest = np.arange(len(groups)) != index
            known = {name: values[rest] for name, values in scores.items()}
            fusion = cls.fit(known, authentic[rest], specimens[rest], difference=difference)
            fused[index] = fusion.fuse({name: values[index] for name, values in scores.items()})
        return fused

    @property
    def holds(self) -> bool:
        """Whether the values are those of a fit: some weight is positive, none negative, every spread positive."""
        weighed = {name for name, weight in self.weight.items() if weight > 0}
        return bool(weighed) and all(
            weight >= 0 and (name not in weighed or (name in self.centre and self.spread.get(name, 0) > 0))
            for name, weight in self.weight.items()
        )

    @property
    def kinds(self) -> set[str]:
        """Kinds of evidence used by readings with a weight; only these have to be computed."""
        return kinds_of({name for name, weight in self.weight.items() if weight > 0})

    def fuse(self, scores: dict[str, Any]) -> Any:
        """Return the fused score of numbers, arrays or tensors; if readings are missing, weights are renormalised."""
        given = {name: value for name, value in scores.items() if self.weight.get(name, 0) > 0}
        parts = (self.weight[name] * (value - self.centre[name]) / self.spread[name] for name, value in given.items())
        return sum(parts) / sum(self.weight[name] for name in given)

    def judge(self, scores: dict[str, dict[str, float]], slope: float) -> tuple[float, dict[str, float]]:
        """Return the fused score and the contribution of each reading to the log-odds.

        A reading of several kinds is split into their contributions.

        Args:
            scores: score of each kind within each reading.
            slope: log-odds per unit of the fused score.
        """
        parts: dict[str, float] = {}
        for name, kinds in scores.items():
            if self.weight.get(name, 0) > 0:
                factor = slope * self.weight[name] / self.spread[name]
                for kind, value in kinds.items():
                    part = kind if len(kinds) > 1 else name
                    parts[part] = parts.get(part, 0.0) + factor * (value - self.centre[name] / len(kinds))
        return float(self.fuse({name: sum(kinds.values()) for name, kinds in scores.items()})), parts


def check_difference(value: object) -> Difference:
    """Return what was said to set the classes apart.

    Raises:
        ArgumentError: it is not one of `Difference`.
    """
    if value not in get_args(Difference):
        raise ArgumentError(f"difference must be {' or '.join(map(repr, get_args(Difference)))}, not {value!r:.80}")
    return cast("Difference", value)


def _of_the_whole(weight: dict[str, float]) -> dict[str, float]:
    """Return weights with `WHOLE_SHARE` on the readings of the whole micrograph; the others keep their proportions."""
    local = {name: value for name, value in weight.items() if READINGS[name].dense}
    whole, total = weight.keys() - local.keys(), sum(local.values())
    shares = {name: (1 - WHOLE_SHARE) * value / total for name, value in local.items()}
    return {name: shares.get(name, WHOLE_SHARE / len(whole)) for name in weight}


def _deviation(samples: Sequence[NDArray[np.float64]]) -> float:
    """Return the pooled standard deviation within samples, at least 1e-3."""
    freedom = sum(len(sample) - 1 for sample in samples)
    if freedom < 1:
        return max(1e-3, float(np.std(np.concatenate(samples))))
    return max(1e-3, float(np.sqrt(sum(((s - s.mean()) ** 2).sum() for s in samples) / freedom)))
