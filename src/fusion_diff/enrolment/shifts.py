"""Shifts of the references under purification, the calibration of the attack test."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from fusion_diff.diffusion.purification import Purification
from fusion_diff.fewshot.crossfit import Arrangement, left_out
from fusion_diff.fewshot.verifier import learner
from fusion_diff.perception import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusion_diff.enrolment.enrolment import Enrolment
    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.heads import Heads
    from fusion_diff.perception import Networks
    from fusion_diff.references import ReferenceSet


def reference_shifts(
    model: Networks, references: ReferenceSet, enrolment: Enrolment, step: Callable[[], None]
) -> tuple[float, ...]:
    """Return the absolute change of the log-odds of each reference under purification; no reference was attacked.

    Each reference is scored by heads fitted to the other specimens. Heads that had seen it would find its own tokens in
    their banks before purification, but not after it.

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
