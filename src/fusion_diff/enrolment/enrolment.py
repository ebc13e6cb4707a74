"""The `Enrolment`: references as tokens, and what was learned from them."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fusion_diff.counted import counted
from fusion_diff.devices import in_forked_child, own_settings
from fusion_diff.enrolment.doubts import doubts
from fusion_diff.fewshot.bags import Bag
from fusion_diff.fewshot.correspondence import Match
from fusion_diff.fewshot.decision import check_alpha, least_p_value, specimens_needed
from fusion_diff.fewshot.figures import auroc, macro_f1
from fusion_diff.fewshot.fusion import Difference
from fusion_diff.fewshot.state import on_device
from fusion_diff.fewshot.verifier import Verifier
from fusion_diff.references.reference import named_specimens
from fusion_diff.references.shots import first_of_each
from fusion_diff.verdict.compared import BUILTIN, SIZE_FACTOR, Compared, same_file
from fusion_diff.verdict.result import NEAREST, NearestReference, RecognisedSurface
from fusion_diff.warn import EnrolmentWarning, warn

if TYPE_CHECKING:
    from fusion_diff.encoder.flaw_detector import FlawDetector
    from fusion_diff.micrograph import Micrograph

_LEARNING = Lock()
"""Held while an enrolment of fewer shots is learned, so that threads that ask for the same one learn it once."""


def _free_lock() -> None:
    global _LEARNING
    _LEARNING = Lock()  # the thread that held it is not in the child


in_forked_child(_free_lock)


@dataclass(frozen=True, eq=False, repr=False)
class Enrolment:
    """References as tokens, and the verifier learned from them; returned by `DiffusionModel.enroll`.

    Attributes:
        authentic: the class being verified.
        names: name of each reference.
        labels: class of each reference.
        groups: specimen of each reference.
        paths: number of channels in a token from each path of the encoder.
        bags: tokens of each reference, rounded to float16 as they are stored. They have keypoints only where surfaces
            are used as evidence.
        condition: (tokens, condition width) mean condition of the authentic references.
        references_sha256: digest of the reference set.
        verifier: what was learned from the references.
        pixel_sizes_um: pixel size of each reference in µm, None where unknown.
        detector: flaw detector of the model; not stored with the enrolment.
        builtin: whether these are the procedural references of the embedded model.
        shifts: absolute change of the log-odds of each reference under purification, for the attack test; empty
            where it was not measured, and in what `shots` returns.
        digests: sha256 of the file of each reference, see `Micrograph.sha256`; empty where they are unknown.
        pages: page of each reference in its file, from 0, if it was requested or is not the first, else None; empty
            says as much as None for each.
        enlargements: how far each reference was enlarged to a whole tile, at least 1; empty says 1 for each.
        dropped: number of references that were left out because the audit found them suspicious.
        difference: what sets the authentic class apart from the others, as it was said.
        seconds: duration of the enrolment in seconds.
    """

    authentic: str
    names: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    paths: tuple[int, ...]
    bags: tuple[Bag, ...]
    condition: Tensor
    references_sha256: str
    verifier: Verifier
    pixel_sizes_um: tuple[float | None, ...]
    detector: FlawDetector | None = None
    builtin: bool = False
    shifts: tuple[float, ...] = ()
    digests: tuple[str, ...] = ()
    pages: tuple[int | None, ...] = ()
    enlargements: tuple[float, ...] = ()
    dropped: int = 0
    difference: Difference = "any"
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Drop the keypoints where surfaces are not used as evidence, so that `shots` does not use them either.

        All references decide that better than a few of them. Keypoints are only stored where they are used, so `shots`
        gives the same result before saving and after loading.
        """
        if self.verifier.correspondence is None and any(bag.keypoints is not None for bag in self.bags):
            object.__setattr__(self, "bags", tuple(replace(bag, keypoints=None) for bag in self.bags))

    def __repr__(self) -> str:
        """Return the classes, their counts, and the cross-fitted figures."""
        told = ", ".join(f"{label}: {count}" for label, count in self.counts.items())
        figures = "".join(f", {name} {value:.3f}" for name, value in self.compared.figures.items())
        return f"Enrolment({told}; authentic={self.authentic!r}, {self.compared.of_specimens}{figures})"

    @property
    def counts(self) -> dict[str, int]:
        """Number of references of each class, the authentic class first."""
        return dict(self.compared.counts)

    @cached_property
    def compared(self) -> Compared:
        """Summary of the references, as it is part of a verdict."""
        return Compared.of(
            self.authentic,
            self.labels,
            specimens=len(set(self.groups)),
            figures=self._crossfitted_figures,
            pixel_sizes_um=self.pixel_sizes_um,
            specimens_by_side=self._specimens_by_side,
            doubts=(*([BUILTIN] if self.builtin else []), *self._doubts, *self._ungrouped),
        )

    @cached_property
    def _crossfitted_figures(self) -> dict[str, float]:
        """AUROC and macro F1 of the cross-fitted scores; empty where a side has no scores."""
        inside, outside, calibration = self.verifier.inside, self.verifier.outside, self.verifier.calibration
        if not (len(inside) and len(outside)):
            return {}
        truth = np.repeat([True, False], [len(inside), len(outside)])
        log_odds = calibration.log_odds(np.concatenate([inside, outside]))
        return {"auroc": auroc(inside, outside), "macro_f1": macro_f1(truth, log_odds <= 0)}

    @cached_property
    def _doubts(self) -> tuple[str, ...]:
        """Why the scores are not to be relied on, in sentences, but for built-in references and a lack of groups."""
        auroc = self._crossfitted_figures.get("auroc")
        return (*self.verifier.warnings, *doubts(self._specimens_by_side, auroc, self.dropped, self.difference))

    @property
    def _specimens_by_side(self) -> dict[str, int]:
        """Number of specimens of each side, keyed as the p-values are."""
        sides: dict[str, set[str]] = {"authentic": set(), "not authentic": set()}
        for label, group in zip(self.labels, self.groups, strict=True):
            sides["authentic" if label == self.authentic else "not authentic"].add(group)
        return {side: len(groups) for side, groups in sides.items()}

    @property
    def figures(self) -> dict[str, float]:
        """Cross-fitted figures, and the weight of each reading in the verdict as `weight of …`.

        `auroc` and `macro_f1` are of authentic against the rest, each reference judged by heads that had not seen its
        group. They are absent with authentic references alone, or where there are too few to cross-fit.
        """
        weights = {f"weight of {name}": weight for name, weight in self.verifier.fusion.weight.items()}
        return self.compared.figures | weights

    @property
    def _ungrouped(self) -> tuple[str, ...]:
        """A sentence on references without groups; none where there are some."""
        if self.builtin or named_specimens(self.names, self.groups):
            return ()
        return (
            "no groups are given, so each image counts as a specimen of its own: if several images show one specimen, "
            "give them one group (--groups, the column group of a CSV file, groups in Python), because all figures are "
            "too optimistic otherwise",
        )

    @property
    def crossfitted(self) -> dict[str, float]:
        """Log-odds of not being authentic of each reference by name, by heads and weights that lack its specimen.

        Where a side has a single specimen, they lack its image alone. `auroc` and `macro_f1` of the figures are
        computed from these. Empty where there are too few to cross-fit.
        """
        sides = {True: iter(self.verifier.inside), False: iter(self.verifier.outside)}
        if not len(self.verifier.inside):
            return {}
        log_odds = self.verifier.calibration.log_odds
        return {
            name: float(log_odds(next(sides[label == self.authentic])))
            for name, label in zip(self.names, self.labels, strict=True)
        }

    def warnings(self, alpha: float = 0.1) -> tuple[str, ...]:
        """Return warnings about the references, in sentences, for decisions at an error rate of `alpha`.

        Raises:
            ValueError: `alpha` does not lie between 0 and 1.
        """
        check_alpha(alpha)
        needed = specimens_needed(alpha)
        lines = [*self._doubts, *self.compared.warnings(), *self._enlarged, *self._ungrouped]
        for (side, count), images, name in zip(
            self.compared.specimens_by_side.items(), self.compared.sides.values(), ("authentic", "other"), strict=True
        ):
            # Without groups each image is its own specimen, so "references" is exact.
            noun, plural = f"{name} reference", None
            if count < images:
                noun, plural = f"specimen of {name} references", f"specimens of {name} references"
            if 0 < count < needed:
                never = "not authentic" if side == "authentic" else "authentic"
                few = f"{counted(count, noun, plural)} {'is' if count == 1 else 'are'} too few"
                cure = f"enrol at least {needed}"
                if len(self.verifier.inside):  # p-values can be had at all
                    enough = math.ceil(100 * least_p_value(count)) / 100  # rounded up
                    cure += f", or use an alpha of {enough:g} or more"
                lines.append(f"{few} to ever decide {never!r} at alpha {alpha:g}: {cure}")
        return tuple(lines)

    @property
    def _enlarged(self) -> tuple[str, ...]:
        """A warning about references that were enlarged as other micrographs may not be."""
        many, most = sum(each > SIZE_FACTOR for each in self.enlargements), max(self.enlargements, default=1.0)
        if not many:
            return ()
        were = "is small and was" if many == 1 else "are small and were"
        return (
            f"{many} of {counted(len(self.names), 'reference')} {were} enlarged, up to {most:.1f} times: to the model "
            "larger micrographs are of another magnification; enrol references of the size of the micrographs that you "
            "will inspect",
        )

    def warn(self) -> None:
        """Warn of too few references or specimens, of no groups and of little skill; see `warnings` for all else.

        Authentic references alone do not calibrate the score either, which is no cause for a warning.

        Warns:
            EnrolmentWarning: there are too few references or specimens, no groups, or little skill.
        """
        for line in (*self._doubts, *self._ungrouped):
            warn(line, EnrolmentWarning)

    def shots(self, k: int) -> Enrolment:
        """Return an enrolment learned from `k` references of each class, or from all of a class with fewer.

        They are chosen as by `ReferenceSet.shots`. It is learned once and kept. Its `references_sha256` is of this
        one's and of the places of the references that are kept.

        Raises:
            ReferenceSetError: `k` is not a whole number of at least 1.
            EnrolmentError: one authentic reference alone would be left.

        Warns:
            UserWarning: no class has `k` references, so that all are used.
            EnrolmentWarning: as `warn`, but of groups, when it is learned.
        """
        most = max(self.counts.values())
        if isinstance(k, Integral) and k > most:
            warn(f"shots is {k}, but no class has more than {counted(most, 'reference')} enrolled; all are used")
            return self
        keep = tuple(first_of_each(self.labels, self.groups, k))
        if len(keep) == len(self.labels):
            return self
        with _LEARNING:
            if new := keep not in self._fewer:
                self._fewer[keep] = self._learned_from(keep)
            fewer = self._fewer[keep]
        if new:
            for line in fewer._doubts:
                warn(line, EnrolmentWarning)
        return fewer

    @cached_property
    def _fewer(self) -> dict[tuple[int, ...], Enrolment]:
        """What was learned of fewer shots, by the places of the references that are kept."""
        return {}

    @own_settings()
    def _learned_from(self, keep: tuple[int, ...]) -> Enrolment:
        began = time.perf_counter()
        bags = tuple(self.bags[i] for i in keep)
        labels, groups = (tuple(each[i] for i in keep) for each in (self.labels, self.groups))
        verifier = Verifier.fit(bags, labels, self.authentic, groups, self.paths, self.detector, self.difference)
        return replace(
            self,
            names=tuple(self.names[i] for i in keep),
            labels=labels,
            groups=groups,
            bags=bags,
            references_sha256=hashlib.sha256(f"{self.references_sha256}, {list(keep)}".encode()).hexdigest(),
            verifier=verifier,
            seconds=time.perf_counter() - began,
            shifts=(),  # they are in log-odds of the calibration of all references
            pixel_sizes_um=tuple(self.pixel_sizes_um[i] for i in keep),
            digests=tuple(self.digests[i] for i in keep) if self.digests else (),
            pages=tuple(self.pages[i] for i in keep) if self.pages else (),
            enlargements=tuple(self.enlargements[i] for i in keep) if self.enlargements else (),
        )

    @property
    def scope_limit(self) -> float:
        """Strangeness above which a micrograph is out of scope."""
        return self.verifier.scope.limit

    @cached_property
    def mean_tokens(self) -> Tensor:
        """Mean standardised token of each reference, normalised to unit length: (references, C)."""
        scale = self.verifier.heads.scale
        return F.normalize(torch.stack([scale(bag.tokens).mean(0) for bag in self.bags]), dim=1)

    def nearest(self, mean_token: Tensor) -> tuple[NearestReference, ...]:
        """Return the `NEAREST` references by the cosine of their mean standardised tokens with `mean_token` (C,)."""
        similarity = self.mean_tokens @ F.normalize(mean_token, dim=0)
        order = similarity.argsort(descending=True)[:NEAREST].tolist()
        return tuple(NearestReference(self.names[i], self.labels[i], float(similarity[i])) for i in order)

    @property
    def files(self) -> tuple[tuple[str | None, int | None], ...]:
        """Digest and page of the file of each reference, None where they are unknown or need not be told."""
        unknown = (None,) * len(self.names)
        return tuple(zip(self.digests or unknown, self.pages or unknown, strict=True))

    def enrolled_as(self, micrograph: Micrograph) -> str | None:
        """Return the name of the reference whose file, and page of it, a micrograph is; None if it is none of them."""
        return same_file(self.names, self.files, micrograph)

    def recognised(self, match: Match | None) -> RecognisedSurface | None:
        """Return the matched reference with its name and class; None where there is no match."""
        if match is None:
            return None
        return RecognisedSurface(self.names[match.reference], self.labels[match.reference], match.points)

    @own_settings()
    def to(self, device: torch.device) -> Enrolment:
        """Return the enrolment with all its tensors on a device."""
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
        # The verifier is moved, not fitted again: a new fit could differ.
        return replace(self, bags=bags, condition=self.condition.to(device), verifier=on_device(self.verifier, device))
