"""Enrolment of labelled references: encode them, fit the verifier, and calibrate the attack test."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import torch

from fusion_diff.devices import own_settings
from fusion_diff.diffusion.purification import Purification
from fusion_diff.enrolment.enrolment import Enrolment
from fusion_diff.errors import EnrolmentError
from fusion_diff.fewshot.crossfit import Arrangement, left_out
from fusion_diff.fewshot.fusion import check_difference
from fusion_diff.fewshot.verifier import ALONE_MESSAGE, WHOLE_ALONE, Verifier, learner
from fusion_diff.perception import encode, grid_of, surface
from fusion_diff.references import ReferenceSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.fusion import Difference
    from fusion_diff.fewshot.heads import Heads
    from fusion_diff.perception import Networks


@own_settings()
def learn(
    model: Networks,
    references: ReferenceSet,
    *,
    difference: Difference,
    reconstruction: bool,
    detect_attacks: bool,
    progress: Callable[[int, int], None] | None,
) -> Enrolment:
    """Encode references and fit a verifier to them; see `DiffusionModel.enroll`.

    Raises:
        EnrolmentError: the references do not allow any verdict.
        ArgumentError: the difference is unknown.
    """
    started = time.perf_counter()
    check_difference(difference)
    if not isinstance(references, ReferenceSet):
        raise EnrolmentError(
            f"references must be a ReferenceSet, not a {type(references).__name__}; make one with "
            "ReferenceSet.from_folder, from_csv or from_micrographs"
        )
    if len(references) == 1:
        raise EnrolmentError(ALONE_MESSAGE)
    if difference == "whole" and len(references.classes) == 1:
        raise EnrolmentError(WHOLE_ALONE)  # here, too, before anything is encoded
    steps, total = count(1), len(references) * (1 + reconstruction + detect_attacks)

    def step() -> None:
        if progress:
            progress(next(steps), total)

    encoded = []
    for reference in references:
        # With the diffusion path this pass is only for the condition, which twins do not affect.
        encoded.append(encode(reference.micrograph, model.encoder, mark=reference.mark, twins=not reconstruction))
        step()
    authentic = [
        condition for (_, condition), r in zip(encoded, references, strict=True) if r.label == references.authentic
    ]
    towards = torch.stack(authentic).mean(0)
    bags = [bag for bag, _ in encoded]
    if reconstruction:
        bags = []
        for reference in references:
            bag, _ = encode(
                reference.micrograph,
                model.encoder,
                mark=reference.mark,
                residual=partial(model.reconstruction.residual, condition=towards),
                twins=True,
            )
            bags.append(bag)
            step()
    bags = [replace(bag, keypoints=surface(r.micrograph)) for bag, r in zip(bags, references, strict=True)]
    labels = tuple(reference.label for reference in references)
    groups = tuple(reference.group for reference in references)
    paths, detector = model.encoder.paths, model.flaw_detector
    enrolment = Enrolment(
        authentic=references.authentic,
        names=tuple(reference.name for reference in references),
        labels=labels,
        groups=groups,
        paths=paths,
        bags=tuple(bags),
        condition=towards,
        references_sha256=references.sha256,
        verifier=Verifier.fit(bags, labels, references.authentic, groups, paths, detector, difference),
        detector=detector,
        difference=difference,
        pixel_sizes_um=tuple(reference.micrograph.pixel_size_um for reference in references),
        digests=tuple(reference.micrograph.sha256 for reference in references),
        pages=tuple(reference.micrograph.page for reference in references),
        enlargements=tuple(grid_of(reference.micrograph, model.encoder).enlargement for reference in references),
    )
    if detect_attacks:
        enrolment = replace(enrolment, shifts=_shifts(model, references, enrolment, step))
    return replace(enrolment, seconds=time.perf_counter() - started)


def _shifts(
    model: Networks, references: ReferenceSet, enrolment: Enrolment, step: Callable[[], None]
) -> tuple[float, ...]:
    """Return the absolute change of the log-odds of each reference under purification, for the attack test.

    No reference was attacked. Each is scored by heads fitted to the other specimens. Heads that had seen it would find
    its own tokens in their banks before purification, but not after it.

    Args:
        model: the encoder and the diffusion prior.
        references: the references, in the order of the enrolment.
        enrolment: the enrolment of these references.
        step: called after each reference.
    """
    verifier = enrolment.verifier
    own = Arrangement.of(enrolment.bags, enrolment.labels, enrolment.groups, enrolment.authentic)
    learn = learner(own.authentic, enrolment.paths, enrolment.detector)
    judges = [verifier.heads] * len(own.bags)
    for part, heads in left_out(own.parts or (), own.bags, own.authentic, learn):
        kept = heads.keep(verifier.fusion.kinds)
        for index in part.tolist():
            judges[own.order[index]] = kept

    def log_odds(bag: Bag, heads: Heads) -> float:
        return verifier.calibration.log_odds(verifier.fused(heads.maps(bag.tokens, bag.residual))[0])

    path, condition = model.reconstruction, enrolment.condition
    purify = Purification(path.prior, condition)
    residual = partial(path.residual, condition=condition) if verifier.needs_residual else None
    shifts = []
    for reference, heads in zip(references, judges, strict=True):
        before, _ = encode(reference.micrograph, model.encoder, residual=residual)
        after, _ = encode(reference.micrograph, model.encoder, purify=purify, residual=residual)
        shifts.append(abs(log_odds(before, heads) - log_odds(after, heads)))
        step()
    return tuple(shifts)
