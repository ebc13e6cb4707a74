"""The verifier: several kinds of evidence, read together where they point and weighed by what they proved."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fusion_diff.errors import EnrolmentError
from fusion_diff.fewshot.bags import Bag, Scale, top_count
from fusion_diff.fewshot.classes import ClassHead
from fusion_diff.fewshot.crossfit import folds
from fusion_diff.fewshot.decision import Calibration, p_value
from fusion_diff.fewshot.evidence.multiple_instance import MultipleInstanceEvidence
from fusion_diff.fewshot.evidence.nearest_neighbour import NearestNeighbourEvidence
from fusion_diff.fewshot.evidence.pooled import PooledEvidence
from fusion_diff.fewshot.evidence.reconstruction import ReconstructionEvidence
from fusion_diff.fewshot.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fusion_diff.fewshot.evidence.base import Evidence, Paths

KINDS: tuple[type[Evidence], ...] = (
    MultipleInstanceEvidence,
    NearestNeighbourEvidence,
    PooledEvidence,
    ReconstructionEvidence,
)
DEPARTURES = "departures"
"""The reading that adds up, token by token, all evidence that a part of the micrograph is not authentic."""
DEPARTURES_WEIGHT = 1.0
REGION_QUANTILE = 0.995
"""Regions are listed where evidence passes this quantile of the authentic references' own tokens."""
ALONE_MESSAGE = "one authentic reference alone gives nothing to compare with; use a second one, or one of another class"


@dataclass(frozen=True, eq=False)
class Heads:
    """One head of each kind, learned from the same bags, with the scale they share."""

    scale: Scale
    heads: dict[str, Evidence]

    @classmethod
    def fit(cls, bags: Sequence[Bag], authentic: NDArray[np.bool_], paths: Paths) -> Heads:
        """Learn every kind of evidence that these bags allow."""
        scale = Scale.of([bag.tokens for bag, is_authentic in zip(bags, authentic, strict=True) if is_authentic])
        scaled = [Bag(scale(bag.tokens), bag.residual, bag.mark, bag.label) for bag in bags]
        inside = [bag for bag, is_authentic in zip(scaled, authentic, strict=True) if is_authentic]
        outside = [bag for bag, is_authentic in zip(scaled, authentic, strict=True) if not is_authentic]
        kinds = [kind for kind in KINDS if outside or kind.one_class]
        if bags[0].residual.shape[1] == 0:
            kinds = [kind for kind in kinds if kind is not ReconstructionEvidence]
        return cls(scale, {kind.name: kind.fit(inside, outside, paths) for kind in kinds})

    def keep(self, readings: set[str]) -> Heads:
        """Return the heads of these readings alone: what earned no weight is not computed at inspection."""
        return Heads(self.scale, {name: head for name, head in self.heads.items() if reading_of(name) in readings})

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return the evidence (n,) of each kind for tokens (n, C) and residuals (n, R)."""
        scaled = self.scale(tokens)
        return {name: head.map(scaled, residual) for name, head in self.heads.items()}


def reading_of(kind: str) -> str:
    """Return the reading that a kind of evidence belongs to: departures are added up per token, others stand alone."""
    return DEPARTURES if kind in (MultipleInstanceEvidence.name, NearestNeighbourEvidence.name) else kind


def readings(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add up the maps (n,) of all kinds into one of each reading."""
    added: dict[str, Tensor] = {}
    for name, values in maps.items():
        key = reading_of(name)
        added[key] = added[key] + values if key in added else values
    return added


def kind_scores(maps: dict[str, Tensor]) -> dict[str, float]:
    """Pool the maps of a whole micrograph into one score of each kind.

    Kinds of one reading are pooled over the same tokens, so that their scores add up to the reading's.
    """
    strongest = {
        name: values.topk(top_count(len(values))).indices
        for name, values in readings(maps).items()
        if name != PooledEvidence.name
    }
    return {
        name: float(values[strongest[reading_of(name)]].mean() if reading_of(name) in strongest else values.mean())
        for name, values in maps.items()
    }


def reading_scores(maps: dict[str, Tensor]) -> dict[str, float]:
    """Pool the maps of a whole micrograph into one score of each reading."""
    scores: dict[str, float] = {}
    for name, value in kind_scores(maps).items():
        scores[reading_of(name)] = scores.get(reading_of(name), 0.0) + value
    return scores


@dataclass(frozen=True, eq=False)
class Fusion:
    """`fused = sum_r weight_r * (score_r - centre_r) / spread_r` over readings r; the weights add up to 1."""

    centre: dict[str, float]
    spread: dict[str, float]
    weight: dict[str, float]

    @classmethod
    def fit(cls, scores: dict[str, NDArray[np.float64]], authentic: NDArray[np.bool_]) -> Fusion:
        """Weigh each reading by how far it sets the two sides apart on cross-fitted scores (n,), beyond chance.

        The weight is the separation in within-class deviations less its standard error, zero where nothing is left: the
        weights of a linear discriminant whose readings count as independent (Fisher 1936), shrunk to what is proven.
        Departures need no proof: cross-fitting on a handful learns from so much less that it underrates them, so they
        weigh `DEPARTURES_WEIGHT` at least.
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
            proven = separation - float(np.sqrt(1 / len(inside) + 1 / len(outside)))
            weight[name] = max(DEPARTURES_WEIGHT, separation) if name == DEPARTURES else max(0.0, proven)
        total = sum(weight.values())
        if total == 0:  # nothing proven: all alike, and the calibration will say how little it is worth
            weight, total = dict.fromkeys(weight, 1.0), float(len(weight))
        return cls(centre, spread, {name: value / total for name, value in weight.items()})

    def parts(self, scores: dict[str, Any]) -> dict[str, Any]:
        """Return each reading's term of the fused score, for numbers, arrays or tensors."""
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


def _held_out(
    bags: Sequence[Bag], authentic: NDArray[np.bool_], paths: Paths, parts: Sequence[NDArray[np.intp]]
) -> list[dict[str, Tensor]]:
    """Return the maps of each bag by heads that learned from the other parts alone."""
    maps: list[dict[str, Tensor]] = [{} for _ in bags]
    for part in parts:
        rest = np.setdiff1d(np.arange(len(bags)), part)
        heads = Heads.fit([bags[index] for index in rest], authentic[rest], paths)
        for index in part.tolist():
            maps[index] = heads.maps(bags[index].tokens, bags[index].residual)
    return maps


def _halves_apart(bags: Sequence[Bag], authentic: NDArray[np.bool_], paths: Paths) -> list[dict[str, Tensor]]:
    """Return the maps of each bag, either half of it by heads that learned from the other halves.

    The least that can be done with a single reference of a side: half a micrograph has not seen the other half, though
    it is of the same specimen.
    """
    halves: list[list[Bag]] = [[], []]
    for bag in bags:
        marks = (None, None) if bag.mark is None else bag.mark.tensor_split(2)
        for side, tokens, residual, mark in zip(
            halves, bag.tokens.tensor_split(2), bag.residual.tensor_split(2), marks, strict=True
        ):
            side.append(Bag(tokens, residual, mark, bag.label))
    judges = [Heads.fit(half, authentic, paths) for half in halves]
    maps = []
    for first, second in zip(*halves, strict=True):
        judged = judges[1].maps(first.tokens, first.residual), judges[0].maps(second.tokens, second.residual)
        maps.append({name: torch.cat([each[name] for each in judged]) for name in judged[0]})
    return maps


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
        scope: tells what is of another kind than all references.
        region_threshold: evidence (log-odds) above this is listed as a region.
        warnings: what the references do not allow.
    """

    heads: Heads
    fusion: Fusion
    calibration: Calibration
    inside: NDArray[np.float64]
    outside: NDArray[np.float64]
    classes: ClassHead
    scope: Scope
    region_threshold: float
    warnings: tuple[str, ...] = field(default=())

    @classmethod
    def fit(
        cls,
        bags: Sequence[Bag],
        labels: Sequence[str],
        authentic_label: str,
        groups: Sequence[str],
        paths: Paths | None = None,
    ) -> Verifier:
        """Learn from bags.

        Args:
            bags: tokens of each reference.
            labels: class of each reference.
            authentic_label: the class being verified.
            groups: specimen of each reference; references of one group are never on both sides of cross-fitting.
            paths: channels of each of the encoder's paths; all channels are one path when omitted.

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
        bags = [replace(bag, label=label) for bag, label in zip(bags, labels, strict=True)]
        paths = paths or (bags[0].tokens.shape[1],)
        heads = Heads.fit(bags, authentic, paths)
        if parts is None:
            warnings.append(
                "too few references to cross-fit (at least two of each side are needed): "
                "the score is not calibrated and every decision is inconclusive"
            )
            maps = _halves_apart(bags, authentic, paths)
        else:
            maps = _held_out(bags, authentic, paths, parts)
        per_reference = [reading_scores(each) for each in maps]
        scores = {name: np.asarray([each[name] for each in per_reference]) for name in per_reference[0]}
        fusion = Fusion.fit(scores, authentic)
        fused = np.sum(list(fusion.parts(scores).values()), axis=0)
        inside, outside = fused[authentic], fused[~authentic]
        calibration = Calibration.fit(inside, outside) if len(outside) else Calibration.one_class()
        token_values = torch.cat(
            [
                torch.stack(list(fusion.parts(readings(maps[index])).values())).sum(0)
                for index in np.flatnonzero(authentic).tolist()
            ]
        )
        own_quantile = calibration.log_odds(float(np.quantile(token_values.cpu().numpy(), REGION_QUANTILE)))
        unknown = parts is None
        scaled = [heads.scale(bag.tokens) for bag in bags]
        return cls(
            heads=heads.keep({name for name, weight in fusion.weight.items() if weight > 0}),
            fusion=fusion,
            calibration=calibration,
            inside=np.zeros(0) if unknown else inside,
            outside=np.zeros(0) if unknown else outside,
            classes=ClassHead.fit(
                scaled,
                [cls._rank(heads, fusion, bag) for bag in bags],
                labels,
                authentic_label,
            ),
            scope=Scope.fit([each[:, -paths[-1] :] for each in scaled], groups),
            region_threshold=max(0.0, own_quantile),
            warnings=tuple(warnings),
        )

    @staticmethod
    def _rank(heads: Heads, fusion: Fusion, bag: Bag) -> Tensor:
        return torch.stack(list(fusion.parts(readings(heads.maps(bag.tokens, bag.residual))).values())).sum(0)

    @property
    def needs_residual(self) -> bool:
        """Whether the diffusion path earned a weight, and so has to be run at inspection."""
        return self.fusion.weight.get(ReconstructionEvidence.name, 0.0) > 0

    def evidence(self, maps: dict[str, Tensor]) -> Tensor:
        """Return log-odds per token from the maps of each kind."""
        fused = torch.stack(list(self.fusion.parts(readings(maps)).values())).sum(0)
        return self.calibration.slope * fused + self.calibration.intercept

    def fused(self, maps: dict[str, Tensor]) -> tuple[float, dict[str, float]]:
        """Return a micrograph's fused score and each kind's part in its log-odds."""
        kinds = kind_scores(maps)
        fused = float(sum(self.fusion.parts(reading_scores(maps)).values()))
        parts = {}
        for name, value in kinds.items():
            reading = reading_of(name)
            members = sum(reading_of(other) == reading for other in kinds)
            factor = self.calibration.slope * self.fusion.weight[reading] / self.fusion.spread[reading]
            parts[name] = factor * (value - self.fusion.centre[reading] / members)
        return fused, parts

    def p_values(self, fused: float) -> dict[str, float]:
        """Return the conformal p-value of each side that has references."""
        values = {"authentic": p_value(fused, self.inside)}
        if len(self.outside) or len(self.inside) == 0:
            values["not authentic"] = p_value(-fused, -self.outside)
        return values
