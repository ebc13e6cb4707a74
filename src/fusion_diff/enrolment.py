"""Enrolment: what a model keeps of its references, and learns from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fusion_diff.errors import ReferenceSetError
from fusion_diff.fewshot.bags import Bag
from fusion_diff.fewshot.correspondence import Match
from fusion_diff.fewshot.decision import references_needed
from fusion_diff.fewshot.state import on_device
from fusion_diff.fewshot.verifier import Verifier
from fusion_diff.result import NEAREST, NearestReference, RecognisedSurface

if TYPE_CHECKING:
    from fusion_diff.encoder.flaw_detector import FlawDetector


@dataclass(frozen=True, eq=False)
class Enrolment:
    """References as tokens, and the verifier learned from them.

    Attributes:
        authentic: the class being verified.
        names: name of each reference.
        labels: class of each reference.
        groups: specimen of each reference.
        paths: channels of each of the encoder's paths in a token.
        bags: tokens of each reference; halves rounded to float16, as they are stored.
        condition: (tokens, condition width), the mean condition of the authentic references.
        references_sha256: digest of the reference set.
        detector: tells where to look for flaws first; it belongs to the model, and is not stored here.
        builtin: whether these are the procedural references that come with the embedded model.
        shifts: how far purification moves the log-odds of each reference, see `trust.purification`; empty where that
            was not measured.
        seconds: time that enrolling took.
    """

    authentic: str
    names: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    paths: tuple[int, ...]
    bags: tuple[Bag, ...]
    condition: Tensor
    references_sha256: str
    detector: FlawDetector | None = None
    builtin: bool = False
    shifts: tuple[float, ...] = ()
    seconds: float = 0.0

    @cached_property
    def verifier(self) -> Verifier:
        """What is learned from the references (computed once; a second or so for a handful)."""
        return Verifier.fit(self.bags, self.labels, self.authentic, self.groups, self.paths, self.detector)

    @property
    def counts(self) -> dict[str, int]:
        """References of each class, the authentic one first."""
        names = sorted(set(self.labels), key=lambda label: (label != self.authentic, label))
        return {name: self.labels.count(name) for name in names}

    @property
    def figures(self) -> dict[str, float]:
        """Cross-fitted figures: how well references were judged by heads that had not seen them or their group.

        `auroc` and `macro_f1` (authentic against the rest; absent with authentic references alone or where there are
        too few to cross-fit), and `weight of …`, the share each reading has in the verdict.
        """
        from sklearn.metrics import f1_score, roc_auc_score

        verifier, figures = self.verifier, {}
        if len(verifier.inside) and len(verifier.outside):
            truth = np.r_[np.zeros(len(verifier.inside)), np.ones(len(verifier.outside))]
            fused = np.r_[verifier.inside, verifier.outside]
            guessed = verifier.calibration.slope * fused + verifier.calibration.intercept > 0
            figures["auroc"] = float(roc_auc_score(truth, fused))
            figures["macro_f1"] = float(f1_score(truth, guessed, average="macro", zero_division=0))
        return figures | {f"weight of {name}": weight for name, weight in verifier.fusion.weight.items()}

    def warnings(self, alpha: float = 0.1) -> tuple[str, ...]:
        """Return what the references do not allow, in sentences, for decisions at an error rate of `alpha`."""
        needed, lines = references_needed(alpha), list(self.verifier.warnings)
        inside, outside = self.labels.count(self.authentic), len(self.labels) - self.labels.count(self.authentic)
        if inside < needed:
            lines.append(
                f"{inside} authentic references are too few to ever decide 'not authentic' at alpha {alpha:g}: "
                f"enrol {needed}, or accept a larger alpha"
            )
        if 0 < outside < needed:
            lines.append(
                f"{outside} other references are too few to ever decide 'authentic' at alpha {alpha:g}: "
                f"enrol {needed}, or accept a larger alpha"
            )
        return tuple(lines)

    def shots(self, count: int) -> Enrolment:
        """Return an enrolment of at most `count` references of each class, the first of each.

        Raises:
            ReferenceSetError: `count` is not a whole number from 1 to the size of the largest class.
        """
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise ReferenceSetError(f"shots is {count!r}; give a whole number of references per class, 1 or more")
        if count > max(self.counts.values()):
            enrolled = ", ".join(f"{number} {label}" for label, number in self.counts.items())
            raise ReferenceSetError(f"shots is {count}, but only {enrolled} are enrolled; ask for fewer or enrol more")
        if all(number <= count for number in self.counts.values()):
            return self
        taken: dict[str, int] = {}
        keep = []
        for index, label in enumerate(self.labels):
            taken[label] = taken.get(label, 0) + 1
            if taken[label] <= count:
                keep.append(index)
        return replace(
            self,
            names=tuple(self.names[i] for i in keep),
            labels=tuple(self.labels[i] for i in keep),
            groups=tuple(self.groups[i] for i in keep),
            bags=tuple(self.bags[i] for i in keep),
            shifts=tuple(self.shifts[i] for i in keep) if self.shifts else (),
        )

    @cached_property
    def signatures(self) -> Tensor:
        """The mean standardised token of each reference, (references, C), of unit length."""
        scale = self.verifier.heads.scale
        return F.normalize(torch.stack([scale(bag.tokens).mean(0) for bag in self.bags]), dim=1)

    def nearest(self, mean_token: Tensor, count: int = NEAREST) -> tuple[NearestReference, ...]:
        """Return the references whose mean standardised token points most nearly the same way as `mean_token` (C,)."""
        similarity = self.signatures @ F.normalize(mean_token, dim=0)
        order = similarity.argsort(descending=True)[:count].tolist()
        return tuple(NearestReference(self.names[i], self.labels[i], float(similarity[i])) for i in order)

    def recognised(self, match: Match | None) -> RecognisedSurface | None:
        """Return the reference that was matched, by name."""
        if match is None:
            return None
        return RecognisedSurface(self.names[match.reference], self.labels[match.reference], match.points)

    def to(self, device: torch.device) -> Enrolment:
        """Return the enrolment, and what was learned from it, with their tensors on a device."""
        if self.condition.device == device:
            return self
        bags = tuple(
            replace(
                bag,
                tokens=bag.tokens.to(device),
                residual=bag.residual.to(device),
                mark=None if bag.mark is None else bag.mark.to(device),
            )
            for bag in self.bags
        )
        moved = replace(self, bags=bags, condition=self.condition.to(device))
        if "verifier" in self.__dict__:  # what was learned, for learning again might come to something else
            moved.__dict__["verifier"] = on_device(self.verifier, device)
        return moved
