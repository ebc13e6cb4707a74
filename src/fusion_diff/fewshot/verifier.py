"""The verifier: several kinds of evidence, each weighing what it earned on references it had not seen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fusion_diff.errors import EnrolmentError
from fusion_diff.fewshot.bags import Bag, Scale, top_mean
from fusion_diff.fewshot.classes import ClassHead
from fusion_diff.fewshot.crossfit import folds
from fusion_diff.fewshot.decision import Calibration, p_value
from fusion_diff.fewshot.evidence.multiple_instance import MultipleInstanceEvidence
from fusion_diff.fewshot.evidence.nearest_neighbour import NearestNeighbourEvidence
from fusion_diff.fewshot.evidence.pooled import PooledEvidence
from fusion_diff.fewshot.evidence.reconstruction import ReconstructionEvidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fusion_diff.fewshot.evidence.base import Evidence

KINDS: tuple[type[Evidence], ...] = (
    MultipleInstanceEvidence,
    NearestNeighbourEvidence,
    PooledEvidence,
    ReconstructionEvidence,
)
REGION_QUANTILE = 0.995
"""Regions are listed where evidence passes this quantile of the authentic references' own tokens."""
ALONE_MESSAGE = "one authentic reference alone gives nothing to compare with; use a second one, or one of another class"


@dataclass(frozen=True, eq=False)
class Heads:
    """One head of each kind, learned from the same bags, with the scale they share."""

    scale: Scale
    heads: dict[str, Evidence]

    @classmethod
    def fit(cls, bags: Sequence[Bag], authentic: NDArray[np.bool_], *, only_supervised: bool = False) -> Heads:
        """Learn every kind of evidence that these bags allow, or only those that learn from both sides."""
        scale = Scale.of([bag.tokens for bag, is_authentic in zip(bags, authentic, strict=True) if is_authentic])
        scaled = [Bag(scale(bag.tokens), bag.residual, bag.mark, bag.label) for bag in bags]
        inside = [bag for bag, is_authentic in zip(scaled, authentic, strict=True) if is_authentic]
        outside = [bag for bag, is_authentic in zip(scaled, authentic, strict=True) if not is_authentic]
        kinds = [kind for kind in KINDS if outside or kind.one_class]
        if bags[0].residual.shape[1] == 0:
            kinds.remove(ReconstructionEvidence)
        if only_supervised:
            kinds = [kind for kind in kinds if not kind.one_class]
        return cls(scale, {kind.name: kind.fit(inside, outside) for kind in kinds})

    def keep(self, names: set[str]) -> Heads:
        """Return the heads of these names alone: what earned no weight is not computed at inspection."""
        return Heads(self.scale, {name: head for name, head in self.heads.items() if name in names})

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return the evidence (n,) of each kind for tokens (n, C) and residuals (n, R)."""
        scaled = self.scale(tokens)
        return {name: head.map(scaled, residual) for name, head in self.heads.items()}

    def scores(self, maps: dict[str, Tensor]) -> dict[str, float]:
        """Pool maps of a whole micrograph into one score of each kind."""
        return {
            name: float(top_mean(values) if self.heads[name].dense else values.mean()) for name, values in maps.items()
        }


@dataclass(frozen=True, eq=False)
class Fusion:
    """`fused = sum_e weight_e * (score_e - centre_e) / spread_e`; the weights add up to 1."""

    centre: dict[str, float]
    spread: dict[str, float]
    weight: dict[str, float]

    @classmethod
    def fit(cls, scores: dict[str, NDArray[np.float64]], authentic: NDArray[np.bool_]) -> Fusion:
        """Weigh each kind by how far it sets the two sides apart on cross-fitted scores (n,), beyond chance.

        The weight is the separation in within-class deviations less its standard error, zero where nothing is left: the
        weights of a linear discriminant whose evidences count as independent (Fisher 1936), shrunk to what is proven.
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
            weight[name] = max(0.0, separation - float(np.sqrt(1 / len(inside) + 1 / len(outside))))
        total = sum(weight.values())
        if total == 0:  # nothing proven: all alike, and the calibration will say how little it is worth
            weight, total = dict.fromkeys(weight, 1.0), float(len(weight))
        return cls(centre, spread, {name: value / total for name, value in weight.items()})

    def parts(self, scores: dict[str, Any]) -> dict[str, Any]:
        """Return each kind's term of the fused score, for numbers, arrays or tensors."""
        return {
            name: self.weight[name] * (value - self.centre[name]) / self.spread[name]
            for name, value in scores.items()
            if self.weight[name] > 0
        }


def _deviation(samples: Sequence[NDArray[np.float64]]) -> float:
    """Return the deviation within samples, pooled, never zero."""
    freedom = sum(len(sample) - 1 for sample in samples)
    if freedom < 1:
        return max(1e-3, float(np.std(np.concatenate(samples))))
    return max(1e-3, float(np.sqrt(sum(((s - s.mean()) ** 2).sum() for s in samples) / freedom)))


@dataclass(frozen=True, eq=False)
class Verifier:
    """Everything learned from a set of references, and the arithmetic of a verdict.

    Attributes:
        heads: the evidence, learned from all references.
        fusion: how the kinds are weighed, from cross-fitted scores.
        calibration: from fused score to log-odds.
        inside: (n,) cross-fitted fused scores of the authentic references, for p-values.
        outside: (m,) those of the others, empty where only authentic ones were enrolled.
        classes: tells the other classes apart.
        region_threshold: evidence (log-odds) above this is listed as a region.
        warnings: what the references do not allow.
    """

    heads: Heads
    fusion: Fusion
    calibration: Calibration
    inside: NDArray[np.float64]
    outside: NDArray[np.float64]
    classes: ClassHead
    region_threshold: float
    warnings: tuple[str, ...] = field(default=())

    @classmethod
    def fit(cls, bags: Sequence[Bag], labels: Sequence[str], authentic_label: str, groups: Sequence[str]) -> Verifier:
        """Learn from bags.

        Args:
            bags: tokens of each reference.
            labels: class of each reference.
            authentic_label: the class being verified.
            groups: specimen of each reference; references of one group are never on both sides of cross-fitting.

        Raises:
            EnrolmentError: no authentic reference, or nothing but one.
        """
        authentic = np.asarray([label == authentic_label for label in labels])
        if not authentic.any():
            raise EnrolmentError(
                f"no reference of the authentic class {authentic_label!r}; enrol at least one authentic reference"
            )
        if len(bags) == 1:
            raise EnrolmentError(ALONE_MESSAGE)
        warnings: list[str] = []
        parts = folds(groups, authentic)
        if parts is None and len(set(groups)) < len(groups):
            parts = folds([str(index) for index in range(len(groups))], authentic)
            if parts is not None:
                warnings.append(
                    "the references of one side come from a single group, so cross-fitting left out single references "
                    "instead of whole groups: the figures are optimistic; add references from other specimens"
                )
        # A memory of the references is at no distance from them: without cross-fitting it would say nothing but that.
        bags = [replace(bag, label=label) for bag, label in zip(bags, labels, strict=True)]
        heads = Heads.fit(bags, authentic, only_supervised=parts is None)
        if parts is None:
            warnings.append(
                "too few references to cross-fit (at least two of each side are needed): "
                "the score is not calibrated and every decision is inconclusive"
            )
            held_out = [(heads, np.arange(len(bags)))]
        else:
            held_out = []
            for part in parts:
                rest = np.setdiff1d(np.arange(len(bags)), part)
                held_out.append((Heads.fit([bags[i] for i in rest], authentic[rest]), part))
        scores = {name: np.zeros(len(bags)) for name in heads.heads}
        maps: list[dict[str, Tensor]] = [{} for _ in bags]
        for fitted, part in held_out:
            for index in part.tolist():
                maps[index] = fitted.maps(bags[index].tokens, bags[index].residual)
                for name, value in fitted.scores(maps[index]).items():
                    scores[name][index] = value
        fusion = Fusion.fit(scores, authentic)
        fused = np.sum(list(fusion.parts(scores).values()), axis=0)
        inside, outside = fused[authentic], fused[~authentic]
        calibration = Calibration.fit(inside, outside) if len(outside) else Calibration.one_class()
        token_values = torch.cat(
            [
                torch.stack(list(fusion.parts(maps[index]).values())).sum(0)
                for index in np.flatnonzero(authentic).tolist()
            ]
        )
        own_quantile = calibration.log_odds(float(np.quantile(token_values.cpu().numpy(), REGION_QUANTILE)))
        unknown = parts is None
        return cls(
            heads=heads.keep({name for name, weight in fusion.weight.items() if weight > 0}),
            fusion=fusion,
            calibration=calibration,
            inside=np.zeros(0) if unknown else inside,
            outside=np.zeros(0) if unknown else outside,
            classes=ClassHead.fit(
                [heads.scale(bag.tokens) for bag in bags],
                [cls._rank(heads, fusion, bag) for bag in bags],
                labels,
                authentic_label,
            ),
            region_threshold=max(0.0, own_quantile),
            warnings=tuple(warnings),
        )

    @staticmethod
    def _rank(heads: Heads, fusion: Fusion, bag: Bag) -> Tensor:
        return torch.stack(list(fusion.parts(heads.maps(bag.tokens, bag.residual)).values())).sum(0)

    @property
    def needs_residual(self) -> bool:
        """Whether the diffusion path earned a weight, and so has to be run at inspection."""
        return self.fusion.weight.get(ReconstructionEvidence.name, 0.0) > 0

    def evidence(self, maps: dict[str, Tensor]) -> Tensor:
        """Return log-odds per token from the maps of each kind."""
        fused = torch.stack(list(self.fusion.parts(maps).values())).sum(0)
        return self.calibration.slope * fused + self.calibration.intercept

    def fused(self, maps: dict[str, Tensor]) -> tuple[float, dict[str, float]]:
        """Return a micrograph's fused score and each kind's part in its log-odds."""
        parts = self.fusion.parts(self.heads.scores(maps))
        return float(sum(parts.values())), {name: self.calibration.slope * value for name, value in parts.items()}

    def p_values(self, fused: float) -> dict[str, float]:
        """Return the conformal p-value of each side that has references."""
        values = {"authentic": p_value(fused, self.inside)}
        if len(self.outside) or len(self.inside) == 0:
            values["not authentic"] = p_value(-fused, -self.outside)
        return values
