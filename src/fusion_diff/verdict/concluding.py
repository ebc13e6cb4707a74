"""The verdict that follows from the evidence on a micrograph, for whole and for exported models."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

from fusion_diff.fewshot.decision import decide, probability
from fusion_diff.verdict.compared import SIZE_FACTOR
from fusion_diff.verdict.reasons import beyond, changed, explain
from fusion_diff.verdict.regions import find_regions
from fusion_diff.verdict.result import EvidenceMap, Inspection
from fusion_diff.warn import warn

if TYPE_CHECKING:
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.micrograph.tiles import Grid
    from fusion_diff.verdict.evidence import MicrographEvidence
    from fusion_diff.verdict.inspector import Enrolled
    from fusion_diff.verdict.result import NearestReference, RecognisedSurface


LEARNED = "which the model learned from: its score and p-values say nothing about new micrographs."
"""What a note says of a micrograph that is a reference."""


def predict(micrograph: Micrograph, enrolment: Enrolled, found: MicrographEvidence, index: int | None) -> float:
    """Return the probability of being authentic. Warns where the micrograph is out of scope, as callers see no verdict.

    Args:
        micrograph: the micrograph.
        enrolment: the enrolled references.
        found: the evidence.
        index: its place among several, for the warning; None for a single one.

    Warns:
        UserWarning: the micrograph is out of scope.
    """
    if not _in_scope(micrograph, enrolment, found):
        name = micrograph.name if index is None else f"{micrograph.name} (score [{index}])"
        warn(f"{name}: {beyond(micrograph.pixel_size_um, enrolment.compared)}")
    return probability(found.log_odds)


def _in_scope(micrograph: Micrograph, enrolment: Enrolled, found: MicrographEvidence) -> bool:
    comparable = enrolment.compared.comparable(micrograph.pixel_size_um)
    return comparable and found.strangeness <= enrolment.scope_limit


def _notes(micrograph: Micrograph, enrolment: Enrolled, grid: Grid) -> tuple[str, ...]:
    notes, sizes = micrograph.notes, enrolment.compared.pixel_sizes
    if micrograph.pixel_size_um is None and sizes is not None:
        notes += (f"Its pixel size is unknown, so it could not be compared with that of the references, {sizes}.",)
    enlarged, theirs = grid.enlargement, enrolment.enlargements or (1.0,)
    if enlarged > max(theirs) * SIZE_FACTOR:
        notes += (
            f"It is small, so it was enlarged {enlarged:.1f} times; compare it only with references of its size.",
        )
    elif enlarged * SIZE_FACTOR < min(theirs):
        notes += (
            f"The references are small, so they were enlarged {min(theirs):.1f} times or more, but it only "
            f"{enlarged:.1f} times: to the model that is another magnification. Enrol references of its size, or "
            "inspect parts of their size.",
        )
    if (name := enrolment.enrolled_as(micrograph)) is not None:
        notes += (f"It is the reference {name}, {LEARNED}",)
    return notes


def conclude(
    micrograph: Micrograph,
    enrolment: Enrolled,
    found: MicrographEvidence,
    *,
    alpha: float,
    model_name: str,
    model_sha256: str,
    predicted_class: str,
    nearest: tuple[NearestReference, ...],
    recognised: RecognisedSurface | None = None,
) -> Inspection:
    """Return the verdict on a micrograph, with `seconds` 0: the caller fills it in.

    Args:
        micrograph: the micrograph.
        enrolment: the enrolled references.
        found: the evidence.
        alpha: error rate on either side, in (0, 1).
        model_name: name of the model that judges.
        model_sha256: its digest.
        predicted_class: the class at the probability of the evidence.
        nearest: the references that resemble it most.
        recognised: the reference that shows the same surface; None where none was recognised.
    """
    verifier = enrolment.verifier
    evidence = EvidenceMap(found.evidence, found.grid.scale, micrograph.height, micrograph.width)
    regions = find_regions(
        evidence,
        verifier.region_threshold,
        pixel_size_um=micrograph.pixel_size_um,
        aspect=micrograph.pixel_aspect,
    )
    score = probability(found.log_odds)
    p_values = verifier.p_values(found.fused)
    in_scope = _in_scope(micrograph, enrolment, found)
    decision = decide(p_values, alpha, verifier.crossfitted_specimens[0]) if in_scope else "inconclusive"
    if decision == "authentic" and changed(found.contributions, verifier.calibration.intercept):
        decision = "inconclusive"
    it = Inspection(
        source=None if micrograph.source is None else str(micrograph.source),
        file_sha256=micrograph.sha256,
        model_name=model_name,
        model_sha256=model_sha256,
        references_sha256=enrolment.references_sha256,
        score=score,
        decision=decision,
        in_scope=in_scope,
        predicted_class=predicted_class,
        p_values=p_values,
        alpha=alpha,
        evidence=evidence,
        threshold=verifier.region_threshold,
        regions=regions,
        nearest=nearest,
        contributions=found.contributions,
        reasons=(),
        height=micrograph.height,
        width=micrograph.width,
        pixel_size_um=micrograph.pixel_size_um,
        instrument=micrograph.instrument,
        seconds=0.0,
        recognised=recognised,
        calibrated=min(verifier.crossfitted_specimens) > 1,
        offset=verifier.calibration.intercept,
        compared_with=deepcopy(enrolment.compared),  # its tables may be edited
        notes=_notes(micrograph, enrolment, found.grid),
        page=micrograph.page,
        pixel_size_source=micrograph.pixel_size_source,
    )
    return replace(it, reasons=explain(it))
