"""The verifier: everything learned from the references, from heads to calibrated scores and p-values."""

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
from fusion_diff.fewshot.correspondence import Correspondence
from fusion_diff.fewshot.crossfit import Arrangement, left_out, single_folds
from fusion_diff.fewshot.decision import Calibration, DecisionRule, shares_of
from fusion_diff.fewshot.evidence.suspicion import FEW_OTHERS
from fusion_diff.fewshot.fusion import Difference, Fusion
from fusion_diff.fewshot.heads import Heads
from fusion_diff.fewshot.readings import RECONSTRUCTION, dense_readings, kind_scores, reading_scores
from fusion_diff.fewshot.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from fusion_diff.encoder.flaw_detector import FlawDetector
    from fusion_diff.fewshot.correspondence import Match
    from fusion_diff.fewshot.evidence.base import Paths
    from fusion_diff.fewshot.keypoints import Keypoints

FEW_GROUPS = 5
"""Up to this many specimens, leaving one out weakens the heads so much that the threshold would be too low."""
BETWEEN = 0.55
"""Without cross-fitting, even odds lie at this share of the way from the authentic references' scores to the others'.
Heads have learned from both, so the ones are too low and the others too high."""
REGION_QUANTILE = 0.995
"""Quantile of the evidence on authentic references' tokens above which regions are listed."""
WHOLE_ALONE = (
    "the difference cannot be `whole` with authentic references alone, for what they have in common as a whole is not "
    "learned from them; add references of another class, or leave it at `any`"
)
ALONE_MESSAGE = "one authentic reference alone is not enough; add a second one, or one of another class"


def learner(authentic: NDArray[np.bool_], paths: Paths, detector: FlawDetector | None) -> Callable[..., Heads]:
    """Return a function that learns heads from bags and their authentic flags.

    The number of other references in the full set decides whether the detector's output is evidence, so that held-out
    heads have the same kinds.
    """
    return partial(Heads.fit, paths=paths, detector=detector, suspicious=int((~authentic).sum()) < FEW_OTHERS)


def _held_out(
    bags: Sequence[Bag], authentic: NDArray[np.bool_], learn: Callable[..., Heads], parts: Sequence[NDArray[np.intp]]
) -> list[dict[str, Tensor]]:
    """Return the evidence maps of each bag by heads learned from the other parts only."""
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
    """Return the correspondence evidence and its log-odds (n,) for each reference; None and zeros without keypoints."""
    surfaces = [bag.keypoints for bag in bags if bag.keypoints is not None]
    if len(surfaces) < len(bags):
        return None, np.zeros(len(bags))
    return Correspondence.fit(surfaces, authentic, groups)


@dataclass(frozen=True, eq=False)
class Verifier(DecisionRule):
    """Everything learned from a set of references, and the arithmetic of a verdict.

    A micrograph is judged in four steps. The heads turn its tokens into evidence maps. Readings pool the maps into
    scores. Fusion combines the scores, and calibration turns the sum into log-odds. The p-values compare the fused
    score with the cross-fitted scores of the references.

    Attributes:
        heads: kinds of evidence, learned from all references.
        fusion: weights of the readings, from cross-fitted scores.
        classes: names the class of a micrograph that is not authentic.
        scope: detects micrographs unlike all references.
        correspondence: recognises the surfaces of references; None if surfaces do not separate the sides.
        warnings: limitations of the references, for the user.
        against: (n,) log-odds against its own label of each reference, by heads that have not seen its specimen, for
            the audit; empty if there were too few. Unlike the scores for p-values they are fused by weights that have:
            weights that have not would contradict many a label that is right.
    """

    heads: Heads
    fusion: Fusion
    classes: ClassHead
    scope: Scope
    correspondence: Correspondence | None = None
    warnings: tuple[str, ...] = ()
    against: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @classmethod
    def fit(
        cls,
        bags: Sequence[Bag],
        labels: Sequence[str],
        authentic_label: str,
        groups: Sequence[str],
        paths: Paths | None = None,
        detector: FlawDetector | None = None,
        difference: Difference = "any",
    ) -> Verifier:
        """Learn from the bags of all references. Their order and the names of specimens do not change the result.

        Args:
            bags: tokens of each reference.
            labels: class of each reference.
            authentic_label: the class being verified.
            groups: specimen of each reference; cross-fitting holds out whole groups where it can.
            paths: channels of each of the encoder's paths; if omitted, all channels are one path.
            detector: flaw detector, for the first guess of where flaws are; if omitted, the tokens least like the
                authentic ones are the first guess.
            difference: what sets the authentic class apart from the others, see `Fusion.fit`.

        Raises:
            EnrolmentError: there is no authentic reference, only a single reference, or the difference is `whole` and
                there are authentic references alone.
        """
        authentic = np.asarray([label == authentic_label for label in labels])
        if not authentic.any():
            raise EnrolmentError(
                f"no reference of the authentic class {authentic_label!r}; enrol at least one authentic reference"
            )
        if len(bags) == 1:
            raise EnrolmentError(ALONE_MESSAGE)
        if difference == "whole" and authentic.all():
            raise EnrolmentError(WHOLE_ALONE)
        paths = paths or (bags[0].tokens.shape[1],)
        arranged = Arrangement.of(bags, labels, groups, authentic_label)
        return cls._learn(arranged, authentic_label, paths, detector, difference)._as_given(arranged.order, authentic)

    @classmethod
    def _learn(
        cls,
        arranged: Arrangement,
        authentic_label: str,
        paths: Paths,
        detector: FlawDetector | None,
        difference: Difference,
    ) -> Verifier:
        """Learn from arranged references; values per reference are in the arranged order."""
        bags, groups, authentic, parts = arranged.bags, arranged.groups, arranged.authentic, arranged.parts
        labels, warnings, crossfitted = [bag.label for bag in bags], list[str](), parts is not None
        if arranged.single:
            warnings.append(
                "the references of one side come from a single group, so cross-fitting left out single ones of them "
                "instead of the whole group: the figures are optimistic and the score is not calibrated; add "
                "references from other specimens"
            )
        learn = learner(authentic, paths, detector)
        heads = learn(bags, authentic)
        if parts is None:
            warnings.append(
                "too few references to cross-fit (at least two of each side are needed): "
                "the score is not calibrated and every decision is inconclusive"
            )
            # The only reference of a side can be scored only by heads that learned from it. Cross-fitting its two
            # halves was tried: they are of one specimen, and the threshold was worse than chance.
            maps = [heads.maps(bag.tokens, bag.residual) for bag in bags]
        else:
            maps = _held_out(bags, authentic, learn, parts)
        scores = _scores(maps)
        fusion = Fusion.fit(scores, authentic, groups, crossfitted=crossfitted, difference=difference)
        fused = fusion.fuse(scores)
        calibration = cls._calibrate(fusion, fused, arranged, learn)
        correspondence, recognised = _surfaces(bags, authentic, groups)
        against = np.where(authentic, 1, -1) * (calibration.log_odds(fused) + recognised)
        if crossfitted and not authentic.all():  # authentic ones alone choose no weights
            fused = Fusion.held_out(scores, authentic, groups, difference)
        fused = calibration.adding(fused, recognised)
        own = torch.cat([fusion.fuse(dense_readings(maps[index])) for index in np.flatnonzero(authentic)])
        highest = calibration.log_odds(float(np.quantile(own.cpu().numpy(), REGION_QUANTILE)))
        inside, outside = (np.flatnonzero(side & crossfitted).tolist() for side in (authentic, ~authentic))
        scaled = [heads.scale(bag.tokens) for bag in bags]
        evidence = [
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
            classes=ClassHead.fit(scaled, evidence, labels, authentic_label),
            scope=Scope.fit([each[:, -paths[-1] :] for each in scaled], groups),
            region_threshold=max(0.0, highest),
            correspondence=correspondence,
            warnings=tuple(warnings),
            against=against if crossfitted else np.empty(0),
        )

    def _as_given(self, order: Sequence[int], authentic: NDArray[np.bool_]) -> Verifier:
        """Return a copy with values per reference in the order the references were given.

        Args:
            order: (n,) index among the references as given, for each arranged reference.
            authentic: (n,) bool, in the order given.
        """
        places, given = np.asarray(order), np.argsort(order)
        inside, outside = (np.argsort(places[side[places]]) for side in (authentic, ~authentic))
        if not len(self.inside):  # nothing was cross-fitted
            inside = outside = inside[:0]
        known = self.correspondence
        if known is not None:
            known = Correspondence(tuple(known.surfaces[index] for index in given), authentic)
        return replace(
            self,
            inside=self.inside[inside],
            outside=self.outside[outside],
            inside_shares=self.inside_shares[inside],
            outside_shares=self.outside_shares[outside],
            correspondence=known,
            against=self.against[given] if len(self.against) else self.against,
        )

    @staticmethod
    def _calibrate(
        fusion: Fusion, fused: NDArray[np.float64], arranged: Arrangement, learn: Callable[..., Heads]
    ) -> Calibration:
        """Fit log-odds to the cross-fitted scores.

        With few specimens, scores with single references left out are added. Leaving out a specimen makes the task
        harder than inspection, where heads have learned from all specimens. Leaving out a single image makes it easier,
        because heads have seen its specimen. Both together gave the best threshold on development draws. Of scores that
        are not cross-fitted the others' are moved, so that even odds lie where `BETWEEN` says.
        """
        bags, authentic, groups = arranged.bags, arranged.authentic, arranged.groups
        if authentic.all():
            return Calibration.one_class()
        truth = authentic
        if arranged.parts is None:
            inside = fused[authentic].mean()
            fused = np.where(authentic, fused, inside + 2 * BETWEEN * (fused - inside))
        elif not arranged.single and len(set(groups)) <= min(FEW_GROUPS, len(groups) - 1):
            single = single_folds(authentic)
            if single is not None:
                fused = np.r_[fused, fusion.fuse(_scores(_held_out(bags, authentic, learn, single)))]
                truth = np.r_[authentic, authentic]
        return Calibration.fit(fused[truth], fused[~truth])

    @property
    def needs_residual(self) -> bool:
        """Whether the diffusion path has a weight, so that it has to run at inspection."""
        return self.fusion.weight.get(RECONSTRUCTION, 0.0) > 0

    def evidence(self, maps: dict[str, Tensor]) -> Tensor:
        """Return the evidence map (n,): log-odds per token from the maps of each kind, by the dense readings."""
        fused: Tensor = self.fusion.fuse(dense_readings(maps))
        return self.calibration.log_odds(fused)

    def recognise(self, surface: Keypoints) -> Match | None:
        """Return the reference that shows this surface; None if there is none or correspondence is off."""
        return None if self.correspondence is None else self.correspondence.match(surface)

    def unrecognising(self, bags: Sequence[Bag], labels: Sequence[str], groups: Sequence[str]) -> Verifier:
        """Return a copy that recognises no surface, with the references' scores as if none had been recognised.

        Args:
            bags: tokens and keypoints of each reference, as given to `fit`; so are labels and groups.
            labels: class of each reference.
            groups: specimen of each reference.
        """
        arranged = Arrangement.of(bags, labels, groups, self.classes.authentic)
        _, recognised = _surfaces(arranged.bags, arranged.authentic, arranged.groups)
        given = np.argsort(arranged.order)
        authentic = arranged.authentic[given]
        inside, outside = (
            self.calibration.adding(scores, -recognised[given][side]) if len(scores) else scores
            for scores, side in ((self.inside, authentic), (self.outside, ~authentic))
        )
        return replace(self, correspondence=None, inside=inside, outside=outside)

    def fused(self, maps: dict[str, Tensor]) -> tuple[float, dict[str, float]]:
        """Return a micrograph's fused score, and the contribution of each reading or kind to its log-odds.

        A reading of several kinds is split into their contributions.
        """
        return self.fusion.judge(kind_scores(maps), self.calibration.slope)
