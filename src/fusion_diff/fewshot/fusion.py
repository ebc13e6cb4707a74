"""Fusion: each reading weighed by what it proved on references it had not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.fewshot.readings import DEPARTURES, kinds_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DEPARTURES_WEIGHT = 1.0
DOUBT = 2.0
"""Standard errors by which a reading has to set the sides apart before it weighs anything."""


@dataclass(frozen=True, eq=False)
class Fusion:
    """`fused = sum_r weight_r * (score_r - centre_r) / spread_r` over readings r; the weights add up to 1."""

    centre: dict[str, float]
    spread: dict[str, float]
    weight: dict[str, float]

    @classmethod
    def fit(
        cls, scores: dict[str, NDArray[np.float64]], authentic: NDArray[np.bool_], *, crossfitted: bool = True
    ) -> Fusion:
        """Weigh each reading by how far it sets the two sides apart on cross-fitted scores (n,), beyond chance.

        The weight is the separation in within-class deviations less `DOUBT` standard errors, or zero: the
        weights of a linear discriminant whose readings count as independent (Fisher 1936), shrunk to what is proven.
        Departures need no proof: cross-fitting on a handful learns from so much less that it underrates them, so they
        weigh `DEPARTURES_WEIGHT` at least, and have to be among the scores: they are of all references. Scores that are
        not cross-fitted prove nothing; departures alone weigh then.
        """
        centre, spread, weight = {}, {}, {}
        for name, values in scores.items():
            inside, outside = values[authentic], values[~authentic]
            if len(outside) == 0:
                centre[name], spread[name], weight[name] = float(inside.mean()), _deviation([inside]), 1.0
                continue
            centre[name] = float(inside.mean() + outside.mean()) / 2
            spread[name] = _deviation([inside, outside])
            separation = float(outside.mean() - inside.mean()) / spread[name]
            doubt = DOUBT * float(np.sqrt(1 / len(inside) + 1 / len(outside))) if crossfitted else np.inf
            proven = separation - doubt
            weight[name] = max(DEPARTURES_WEIGHT, separation) if name == DEPARTURES else max(0.0, proven)
        total = sum(weight.values())
        return cls(centre, spread, {name: value / total for name, value in weight.items()})

    @property
    def holds(self) -> bool:
        """Whether some reading weighs something and none speaks for what it speaks against, as in every fit."""
        weighed = {name for name, weight in self.weight.items() if weight > 0}
        return bool(weighed) and all(
            weight >= 0 and (name not in weighed or (name in self.centre and self.spread.get(name, 0) > 0))
            for name, weight in self.weight.items()
        )

    @property
    def kinds(self) -> set[str]:
        """Kinds of evidence that readings with a weight are made of; no others need be computed."""
        return kinds_of({name for name, weight in self.weight.items() if weight > 0})

    def fuse(self, scores: dict[str, Any]) -> Any:
        """Return the fused score of numbers, arrays or tensors; of some readings, as if they were all there are."""
        given = {name: value for name, value in scores.items() if self.weight.get(name, 0) > 0}
        parts = (self.weight[name] * (value - self.centre[name]) / self.spread[name] for name, value in given.items())
        return sum(parts) / sum(self.weight[name] for name in given)

    def judge(self, scores: dict[str, dict[str, float]], slope: float) -> tuple[float, dict[str, float]]:
        """Return the fused score and each reading's part in the log-odds; one of several kinds is told apart into them.

        Args:
            scores: what each kind gives in each reading.
            slope: log-odds per fused score.
        """
        parts = {}
        for name, kinds in scores.items():
            if self.weight.get(name, 0) > 0:
                factor = slope * self.weight[name] / self.spread[name]
                for kind, value in kinds.items():
                    parts[kind if len(kinds) > 1 else name] = factor * (value - self.centre[name] / len(kinds))
        return float(self.fuse({name: sum(kinds.values()) for name, kinds in scores.items()})), parts


def _deviation(samples: Sequence[NDArray[np.float64]]) -> float:
    """Return the deviation within samples, pooled, never zero."""
    freedom = sum(len(sample) - 1 for sample in samples)
    if freedom < 1:
        return max(1e-3, float(np.std(np.concatenate(samples))))
    return max(1e-3, float(np.sqrt(sum(((s - s.mean()) ** 2).sum() for s in samples) / freedom)))
