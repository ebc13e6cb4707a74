"""The verifier: several kinds of evidence, read together where they point and weighed by what they proved."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fusion_diff.errors import EnrolmentError
from fusion_diff.fewshot.bags import Bag
from fusion_diff.fewshot.classes import ClassHead
from fusion_diff.fewshot.correspondence import CORRESPONDENCE, Correspondence, Match
from fusion_diff.fewshot.crossfit import Arrangement, left_out, single_folds
from fusion_diff.fewshot.decision import Calibration, shares_of, side_p_values
from fusion_diff.fewshot.evidence.suspicion import FEW_OTHERS
from fusion_diff.fewshot.fusion import Fusion
from fusion_diff.fewshot.heads import Heads
from fusion_diff.fewshot.readings import RECONSTRUCTION, dense_readings, kind_scores, reading_scores
from fusion_diff.fewshot.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from fusion_diff.encoder.flaw_detector import FlawDetector
    from fusion_diff.fewshot.evidence.base import Paths
    from fusion_diff.fewshot.keypoints import Keypoints

FEW_GROUPS = 5
"""With so few specimens, leaving one out leaves the heads so much poorer that the threshold comes out too low."""
OF_THE_SEEN = 0.9
"""Of another specimen heads will say about this share of what they say of one whose flaws they learned."""
REGION_QUANTILE = 0.995
"""Regions are listed where evidence passes this quantile of the authentic references' own tokens."""
ALONE_MESSAGE = "one authentic reference alone gives nothing to compare with; use a second one, or one of another class"


def learner(authentic: NDArray[np.bool_], paths: Paths, detector: FlawDetector | None) -> Callable[..., Heads]:
    """Return what learns heads from bags and which of them are authentic, as all of these references together allow."""
    return partial(Heads.fit, paths=paths, detector=detector, suspicious=int((~authentic).sum()) < FEW_OTHERS)


def _held_out(
    bags: Sequence[Bag], authentic: NDArray[np.bool_], learn: Callable[..., Heads], parts: Sequence[NDArray[np.intp]]
) -> list[dict[str, Tensor]]:
    """Return the maps of each bag by heads that learned from the other parts alone."""
    maps: list[dict[str, Tensor]] = [{} for _ in bags]
    for part, heads in left_out(parts, bags, authentic, learn):
        for index in part.tolist():
            maps[index] = heads.maps(bags[index].tokens, bags[index].residual)
    return maps


def _scores(maps: Sequence[dict[str, Tensor]]) -> dict[str, NDArray[np.float64]]:
    """Return the scores (n,) of each reading from the maps of n references."""
    per_reference = [reading_scores(each) for each in maps]
    return {name: np.asarray([each[name] for each in per_reference]) for name in per_reference[0]}


def _surfaces(
    bags: Sequence[Bag], authentic: NDArray[np.bool_], groups: Sequence[str]
) -> tuple[Correspondence | None, NDArray[np.float64]]:
    """Return the correspondence evidence, and what it says of each reference; none where keypoints were not sought."""
    surfaces = [bag.keypoints for bag in bags if bag.keypoints is not None]
    if len(surfaces) < len(bags):
        return None, np.zeros(len(bags))
    return Correspondence.fit(surfaces, authentic, groups)


@dataclass(frozen=True, eq=False)
class Verifier:
    """Everything learned from a set of references, and the arithmetic of a verdict.

    Attributes:
        heads: the evidence, learned from all references.
        fusion: how the kinds are weighed, from cross-fitted scores.
        calibration: from fused score to log-odds.
        inside: (n,) cross-fitted fused scores of the authentic references, for p-values.
        outside: (m,) those of the others, empty where only authentic ones were enrolled.
        inside_shares: (n,) the part of its specimen's voice that each authentic reference has in p-values.
        outside_shares: (m,) the same of the others.
        classes: tells the other classes apart.
        scope: tells what is of another kind than all references.
        region_threshold: evidence (log-odds) above this is listed as a region.
        correspondence: recognises the surfaces of references; None where surfaces do not tell the classes apart.
        warnings: what the references do not allow.
    """

    heads: Heads
    fusion: Fusion
    calibration: Calibration
    inside: NDArray[np.float64]
    outside: NDArray[np.float64]
    inside_shares: NDArray[np.float64]
    outside_shares: NDArray[np.float64]
    classes: ClassHead
    scope: Scope
    region_threshold: float
    correspondence: Correspondence | None = None
    warnings: tuple[str, ...] = field(default=())

    @classmethod
    def fit(
        cls,
        bags: Sequence[Bag],
        labels: Sequence[str],
        authentic_label: str,
        groups: Sequence[str],
        paths: Paths | None = None,
        detector: FlawDetector | None = None,
    ) -> Verifier:
        """Learn from bags, the same in whichever order they come and whatever their specimens are called.

        Args:
            bags: tokens of each reference.
            labels: class of each reference.
            authentic_label: the class being verified.
            groups: specimen of each reference; references of one group are never on both sides of cross-fitting.
            paths: channels of each of the encoder's paths; all channels are one path when omitted.
            detector: where to look for flaws first; the strangest tokens when omitted.

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
        paths = paths or (bags[0].tokens.shape[1],)
        arranged = Arrangement.of(bags, labels, groups, authentic_label)
        return cls._learn(arranged, authentic_label, paths, detector)._as_given(arranged.order, authentic)

    @classmethod
    def _learn(
        cls, arranged: Arrangement, authentic_label: str, paths: Paths, detector: FlawDetector | None
    ) -> Verifier:
        """Learn from references in their own order, in which this is then, too."""
        bags, groups, authentic, parts = arranged.bags, arranged.groups, arranged.authentic, arranged.parts
        labels, warnings = [bag.label for bag in bags], list[str]()
        if arranged.single:
            warnings.append(
                "the references of one side come from a single group, so cross-fitting left out single references "
                "instead of whole groups: the figures are optimistic; add references from other specimens"
            )
        learn = learner(authentic, paths, detector)
        heads = learn(bags, authentic)
        if parts is None:
            warnings.append(
                "too few references to cross-fit (at least two of each side are needed): "
                "the score is not calibrated and every decision is inconclusive"
            )
            # A single reference of a side can only be judged by heads that learned from it too. One half of it judged
            # by heads that learned from the other is a question of one specimen: its threshold was worse than a coin's.
            maps = [heads.maps(bag.tokens, bag.residual) for bag in bags]
        else:
            maps = _held_out(bags, authentic, learn, parts)
        scores = _scores(maps)
        fusion = Fusion.fit(scores, authentic, crossfitted=parts is not None)
        fused = fusion.fuse(scores)
        calibration = cls._calibrate(fusion, fused, arranged, learn)
        correspondence, recognised = _surfaces(bags, authentic, groups)
        fused = fused + recognised / calibration.slope
        own = [fusion.fuse(dense_readings(each)) for each, its in zip(maps, authentic, strict=True) if its]
        own_quantile = calibration.log_odds(float(np.quantile(torch.cat(own).cpu().numpy(), REGION_QUANTILE)))
        judged = parts is not None
        inside, outside = (np.flatnonzero(side & judged).tolist() for side in (authentic, ~authentic))
        scaled = [heads.scale(bag.tokens) for bag in bags]
        ranks = [
            fusion.fuse(dense_readings(heads.judge(tokens, bag.residual)))
            for tokens, bag in zip(scaled, bags, strict=True)
        ]
        return cls(
            heads=heads.keep(fusion.kinds),
            fusion=fusion,
            calibration=calibration,
            inside=fused[inside],
            outside=fused[outside],
            inside_shares=shares_of([groups[index] for index in inside]),
            outside_shares=shares_of([groups[index] for index in outside]),
            classes=ClassHead.fit(scaled, ranks, labels, authentic_label),
            scope=Scope.fit([each[:, -paths[-1] :] for each in scaled], groups),
            region_threshold=max(0.0, own_quantile),
            correspondence=correspondence,
            warnings=tuple(warnings),
        )

    def _as_given(self, order: Sequence[int], authentic: NDArray[np.bool_]) -> Verifier:
        """Return this with what belongs to single references in their own order, of which it was learned in another.

        Args:
            order: (n,) place of each in their own order.
            authentic: (n,) bool, in their own order.
        """
        places = np.asarray(order)
        inside, outside = (np.argsort(places[side[places]]) for side in (authentic, ~authentic))
        if not len(self.inside):  # nothing was cross-fitted
            inside = outside = inside[:0]
        known = self.correspondence
        if known is not None:
            known = Correspondence(tuple(known.surfaces[index] for index in np.argsort(places)), authentic)
        return replace(
            self,
            inside=self.inside[inside],
            outside=self.outside[outside],
            inside_shares=self.inside_shares[inside],
            outside_shares=self.outside_shares[outside],
            correspondence=known,
        )

    @staticmethod
    def _calibrate(
        fusion: Fusion, fused: NDArray[np.float64], arranged: Arrangement, learn: Callable[..., Heads]
    ) -> Calibration:
        """Fit log-odds to the cross-fitted scores; of few specimens, to scores with single references left out as well.

        The former ask more of the heads than inspection will, which has all specimens to learn from, and the latter
        less, for a specimen then judges itself. On development draws both together gave the better threshold. Scores
        that are not cross-fitted flatter the other side, whose very flaws the heads know.
        """
        bags, authentic, groups = arranged.bags, arranged.authentic, arranged.groups
        if authentic.all():
            return Calibration.one_class()
        truth = authentic
        if arranged.parts is None:
            inside = fused[authentic].mean()
            fused = np.where(authentic, fused, inside + OF_THE_SEEN * (fused - inside))
        elif not arranged.single and len(set(groups)) <= min(FEW_GROUPS, len(groups) - 1):
            single = single_folds(authentic)
            if single is not None:
                fused = np.r_[fused, fusion.fuse(_scores(_held_out(bags, authentic, learn, single)))]
                truth = np.r_[authentic, authentic]
        return Calibration.fit(fused[truth], fused[~truth])

    @property
    def scope_limit(self) -> float:
        """Strangeness above this is out of scope."""
        return self.scope.limit

    @property
    def needs_residual(self) -> bool:
        """Whether the diffusion path earned a weight, and so has to be run at inspection."""
        return self.fusion.weight.get(RECONSTRUCTION, 0.0) > 0

    def evidence(self, maps: dict[str, Tensor]) -> Tensor:
        """Return log-odds per token from the maps of each kind, by the readings that point to places."""
        fused: Tensor = self.fusion.fuse(dense_readings(maps))
        return self.calibration.slope * fused + self.calibration.intercept

    def recognise(self, surface: Keypoints | None) -> Match | None:
        """Return the reference whose surface this is, where surfaces tell anything and there is one."""
        return None if self.correspondence is None or surface is None else self.correspondence.match(surface)

    def fused(self, maps: dict[str, Tensor], match: Match | None = None) -> tuple[float, dict[str, float]]:
        """Return a micrograph's fused score and the part of each reading, or kind in it, in its log-odds.

        A reading of several kinds is told apart into them. A surface that was recognised adds what it is worth.
        """
        fused, parts = self.fusion.judge(kind_scores(maps), self.calibration.slope)
        if match is not None:
            fused += match.log_odds / self.calibration.slope
            parts[CORRESPONDENCE] = match.log_odds
        return fused, parts

    def p_values(self, fused: float) -> dict[str, float]:
        """Return the conformal p-value of each side that has references."""
        return side_p_values(fused, self.inside, self.outside, self.inside_shares, self.outside_shares)
