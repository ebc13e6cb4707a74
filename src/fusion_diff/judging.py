"""Judging: the evidence on a micrograph, and the verdict that it leads to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fusion_diff.errors import MicrographError
from fusion_diff.fewshot.decision import decide, probability
from fusion_diff.micrograph import Micrograph
from fusion_diff.perception import perceive, surface
from fusion_diff.reading import Reading
from fusion_diff.reasons import explain
from fusion_diff.regions import find_regions
from fusion_diff.result import Inspection

if TYPE_CHECKING:
    from fusion_diff.encoder.fusion import DualPathEncoder
    from fusion_diff.enrolment import Enrolment
    from fusion_diff.model import DiffusionModel
    from fusion_diff.trust.purification import Purified


def judge(
    model: DiffusionModel,
    enrolment: Enrolment,
    micrograph: Micrograph,
    *,
    alpha: float,
    purify: bool,
    detect_attacks: bool,
) -> Inspection:
    """Return the verdict on a micrograph by what is enrolled; see `DiffusionModel.inspect`.

    Raises:
        EnrolmentError: it was not measured what purification does to the references.
        MicrographError: it is something else than a micrograph.
    """
    started = time.perf_counter()
    verifier = enrolment.verifier
    reading = read(model, enrolment, micrograph, purify=purify)
    evidence = reading.evidence_map(micrograph)
    regions = find_regions(evidence, verifier.region_threshold, pixel_size_um=micrograph.pixel_size_um)
    score = probability(reading.log_odds)
    p_values = verifier.p_values(reading.fused)
    in_scope = reading.strangeness <= verifier.scope.limit
    decision = decide(p_values, alpha) if in_scope else "inconclusive"
    nearest = enrolment.nearest(reading.mean_token)
    predicted = verifier.classes.predict(reading.strongest, score)
    recognised = enrolment.recognised(reading.match)
    reasons = explain(
        score, decision, in_scope, p_values, alpha, reading.contributions, regions, recognised, nearest, enrolment
    )
    attacked = None
    if purify or detect_attacks:
        from fusion_diff.trust.purification import PURIFIED, WITHHELD, AttackTest

        reasons += (PURIFIED,) if purify else ()
        if detect_attacks:
            test = AttackTest.of(model, enrolment)
            other = read(model, enrolment, micrograph, purify=not purify)
            attacked, sentence = test.judge(reading.log_odds - other.log_odds)
            reasons += (sentence,)
            if attacked and decision == "authentic":
                decision, reasons = "inconclusive", (*reasons, WITHHELD)
    return Inspection(
        source=None if micrograph.source is None else str(micrograph.source),
        file_sha256=micrograph.sha256,
        model_name=model.name,
        model_sha256=model.sha256,
        references_sha256=enrolment.references_sha256,
        score=score,
        decision=decision,
        in_scope=in_scope,
        predicted_class=predicted,
        p_values=p_values,
        alpha=alpha,
        evidence=evidence,
        threshold=verifier.region_threshold,
        regions=regions,
        nearest=nearest,
        contributions=reading.contributions,
        reasons=reasons,
        height=micrograph.height,
        width=micrograph.width,
        pixel_size_um=micrograph.pixel_size_um,
        instrument=micrograph.instrument,
        seconds=time.perf_counter() - started,
        purified=purify,
        attacked=attacked,
        recognised=recognised,
    )


def read(model: DiffusionModel, enrolment: Enrolment, micrograph: Micrograph, *, purify: bool = False) -> Reading:
    """Return the evidence on a micrograph, as it is or as the diffusion prior repaints it.

    Raises:
        MicrographError: it is something else than a micrograph.
    """
    if not isinstance(micrograph, Micrograph):
        raise MicrographError(
            f"expected a Micrograph, got {type(micrograph).__name__}; use load_microstructure_data(path) or "
            "Micrograph.from_array(pixels)"
        )
    needed = enrolment.verifier.needs_residual
    encoder: DualPathEncoder | Purified = model.encoder
    reconstruction = model.reconstruction if needed else None
    if purify:
        from fusion_diff.trust.purification import purified_paths

        encoder, reconstruction = purified_paths(model, enrolment)
    grid, parts = perceive(
        micrograph,
        encoder,
        reconstruction=reconstruction,
        towards=enrolment.condition if needed else None,
    )
    recognises = enrolment.verifier.correspondence is not None
    return Reading.of(grid, parts, enrolment.verifier, surface(micrograph) if recognises else None)
