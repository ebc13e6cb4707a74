"""The part of a model that can be exported: its enrolment without correspondence and the diffusion path."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fusion_diff.edge.exported import Exported
from fusion_diff.encoder.dual_path import STRIDE
from fusion_diff.errors import EnrolmentError, ExportError
from fusion_diff.fewshot.readings import RECONSTRUCTION

if TYPE_CHECKING:
    from fusion_diff.enrolment import Enrolment
    from fusion_diff.model import DiffusionModel

UNRECOGNISED = (
    "an exported model does not recognise the surfaces of references; a micrograph that shows one is "
    "judged by its texture, like any other, so its score and decision may be others than the model's"
)


def portable(model: DiffusionModel) -> tuple[Enrolment, tuple[str, ...]]:
    """Return the exportable form of a model's enrolment, and sentences that describe what it lacks.

    Correspondence evidence is not exported. Its contribution is removed from the references' scores, too, so that
    p-values compare like with like.

    Raises:
        EnrolmentError: no references are enrolled.
        ExportError: the diffusion path has a weight in the verdict.
    """
    enrolment = model.enrolment
    if enrolment is None:
        raise EnrolmentError(f"{model.name}: it has no enrolled references to export; enrol some first")
    verifier = enrolment.verifier
    if verifier.needs_residual:
        raise ExportError(
            f"{model.name}: {verifier.fusion.weight[RECONSTRUCTION]:.0%} of its verdict comes from the "
            "diffusion path, which is not exported; enrol the references again without reconstruction "
            "(fusion-diff enroll --reconstruction)"
        )
    if verifier.correspondence is None:
        return enrolment, ()
    unrecognising = verifier.unrecognising(enrolment.bags, enrolment.labels, enrolment.groups)
    return replace(enrolment, verifier=unrecognising), (UNRECOGNISED,)


def describe(
    model: DiffusionModel,
    enrolment: Enrolment,
    kinds: tuple[str, ...],
    *,
    runtime: str,
    precision: str,
    notes: tuple[str, ...],
) -> Exported:
    """Return the description of an exported model: everything that a verdict needs in addition to the graph."""
    verifier = enrolment.verifier
    return Exported(
        runtime=runtime,
        precision=precision,
        name=model.name,
        exported_from=model.sha256,
        references_sha256=enrolment.references_sha256,
        builtin=enrolment.builtin,
        tile=model.encoder.tile,
        stride=STRIDE,
        kinds=kinds,
        fusion=verifier.fusion,
        calibration=verifier.calibration,
        inside=verifier.inside,
        outside=verifier.outside,
        inside_shares=verifier.inside_shares,
        outside_shares=verifier.outside_shares,
        scope_limit=verifier.scope.limit,
        region_threshold=verifier.region_threshold,
        authentic=enrolment.authentic,
        classes=verifier.classes.names,
        class_norms=tuple(verifier.classes.prototypes.square().sum(1).tolist()),
        references=enrolment.names,
        labels=enrolment.labels,
        files=enrolment.files,
        notes=notes,
        specimens=enrolment.compared.specimens,
        specimens_by_side=enrolment.compared.specimens_by_side,
        figures=enrolment.compared.figures,
        pixel_sizes_um=enrolment.pixel_sizes_um,
        doubts=enrolment.compared.doubts,
        enlargements=enrolment.enlargements,
    )
