"""Inspection of a micrograph by a whole model: evidence first, then the verdict."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from fusion_diff.diffusion.purification import Purification
from fusion_diff.fewshot.decision import probability
from fusion_diff.micrograph.micrograph import expect_micrograph
from fusion_diff.perception import perceive, surface
from fusion_diff.verdict.attacked import PURIFIED, WITHHELD, AttackTest
from fusion_diff.verdict.concluding import conclude
from fusion_diff.verdict.model_evidence import ModelEvidence

if TYPE_CHECKING:
    from fusion_diff.enrolment import Enrolment
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.perception import Networks, OfTiles
    from fusion_diff.verdict.result import Inspection


def judge(
    model: Networks,
    enrolment: Enrolment,
    micrograph: Micrograph,
    *,
    alpha: float,
    purify: bool,
    detect_attacks: bool,
) -> Inspection:
    """Return the verdict on a micrograph given the enrolled references; see `DiffusionModel.inspect`.

    Raises:
        EnrolmentError: `detect_attacks`, and the references' shifts under purification were not measured.
        MicrographError: the sample is not a `Micrograph`.
    """
    started = time.perf_counter()
    test = AttackTest.of(model.name, enrolment.shifts, enrolment.groups) if detect_attacks else None
    expect_micrograph(micrograph)
    purification = Purification(model.reconstruction.prior, enrolment.condition) if purify or detect_attacks else None
    found = read(model, enrolment, micrograph, purify=purification if purify else None)
    other = None if test is None else read(model, enrolment, micrograph, purify=None if purify else purification)
    if purify:  # the limit of the scope is set on references as they are, so it is asked of the micrograph as it is
        plain = strangeness(model, enrolment, micrograph) if other is None else other.strangeness
        found = replace(found, strangeness=plain)
    it = verdict(model, enrolment, micrograph, found, alpha)
    if purify or detect_attacks:
        reasons, decision, attacked = it.reasons + ((PURIFIED,) if purify else ()), it.decision, None
        if test is not None and other is not None:
            attacked, sentence = test.judge(found.log_odds - other.log_odds)
            reasons += (sentence,)
            if attacked and decision == "authentic":
                decision, reasons = "inconclusive", (*reasons, WITHHELD)
        it = replace(it, reasons=reasons, decision=decision, purified=purify, attacked=attacked)
    return replace(it, seconds=time.perf_counter() - started)


def read(
    model: Networks, enrolment: Enrolment, micrograph: Micrograph, *, purify: OfTiles | None = None
) -> ModelEvidence:
    """Return the evidence on a micrograph, as it is or with its tiles purified.

    Raises:
        MicrographError: the sample is not a `Micrograph`.
    """
    expect_micrograph(micrograph)
    verifier, residual = enrolment.verifier, None
    if verifier.needs_residual:
        residual = partial(model.reconstruction.residual, condition=enrolment.condition)
    grid, parts = perceive(micrograph, model.encoder, purify=purify, residual=residual)
    found = ModelEvidence.of(grid, parts, verifier)
    return found if verifier.correspondence is None else found.recognising(verifier, surface(micrograph))


def verdict(
    model: Networks, enrolment: Enrolment, micrograph: Micrograph, found: ModelEvidence, alpha: float
) -> Inspection:
    """Return the verdict that follows from the evidence on a micrograph, with `seconds` 0."""
    return conclude(
        micrograph,
        enrolment,
        found,
        alpha=alpha,
        model_name=model.name,
        model_sha256=model.sha256,
        predicted_class=enrolment.verifier.classes.predict(found.strongest, probability(found.log_odds)),
        nearest=enrolment.nearest(found.mean_token),
        recognised=enrolment.recognised(found.match),
    )


@torch.inference_mode()
def strangeness(model: Networks, enrolment: Enrolment, micrograph: Micrograph) -> float:
    """Return the strangeness of a micrograph as it is, see `MicrographEvidence`, without any other evidence."""
    scale, scope = enrolment.verifier.heads.scale, enrolment.verifier.scope
    grid, parts = perceive(micrograph, model.encoder)
    return sum(float(scope.distances(scale(part.tokens)).sum()) for part in parts) / (grid.rows * grid.columns)
