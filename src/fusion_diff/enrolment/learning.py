"""Enrolment of labelled references: encode them and fit the verifier."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import torch

from fusion_diff.devices import own_settings
from fusion_diff.enrolment.enrolment import Enrolment
from fusion_diff.enrolment.shifts import reference_shifts
from fusion_diff.errors import EnrolmentError
from fusion_diff.fewshot.fusion import check_difference
from fusion_diff.fewshot.verifier import ALONE_MESSAGE, WHOLE_ALONE, Verifier
from fusion_diff.perception import encode, grid_of, surface
from fusion_diff.references import ReferenceSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusion_diff.fewshot.fusion import Difference
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
        enrolment = replace(enrolment, shifts=reference_shifts(model, references, enrolment, step))
    return replace(enrolment, seconds=time.perf_counter() - started)
