"""The page of a verdict: evidence, regions, reasons, and the forms to overrule it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Form, Request
from sqlalchemy import select
from starlette.responses import Response

from fusion_diff.errors import ServiceError
from fusion_diff.inspection import draw, verdict_values
from fusion_diff.inspection.wording import p_value_sentences, region_count
from fusion_diff.references.reference import alike_in_letters
from fusion_diff.service import collecting, pictures, records
from fusion_diff.service.pages.rendering import PageRoute, render
from fusion_diff.service.problems import reported
from fusion_diff.service.routes import inspections
from fusion_diff.service.runtime import ServiceDep
from fusion_diff.service.schemas.fields import Id
from fusion_diff.service.schemas.inspections import AddToReferencesIn, InspectionOut, OverruleIn
from fusion_diff.service.security import Enrolling, Reader
from fusion_diff.service.tables import Model, ReferenceImage

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

router = APIRouter(prefix="/inspections", route_class=PageRoute)


@router.get("/{inspection_id}")
def verdict(request: Request, service: ServiceDep, caller: Reader, inspection_id: Id) -> Response:
    """Show a verdict, without its map where the file of that is lost."""
    with service.database.read() as session:
        row = records.get_inspection(session, inspection_id)
        lost = None
        try:
            evidence = pictures.evidence(row, service.store)
        except ServiceError as error:
            evidence, lost = pictures.no_evidence(row), reported(error, request).detail
        it, judged = InspectionOut.of(row), pictures.verdict(row, evidence)
        limit = draw.heat_limit([judged.evidence], [judged.threshold])
        model = service.shelf.newest(session, it.model_sha256)
        return render(
            request,
            "verdict",
            it=it,
            lost=lost,
            field=verdict_values.field_of_view(judged),
            unit="px" if it.pixel_size_um is None else "µm",
            region_count=region_count(judged),
            regions=[(region, verdict_values.measures(region)) for region in judged.regions],
            p_values=p_value_sentences(judged.p_values, judged.compared_with),
            contributions=verdict_values.bars(judged),
            nearest=_nearest(session, it, model),
            heat_stops=verdict_values.heat_stops(),
            heat_limit=limit,
            threshold_at=verdict_values.threshold_at(judged, limit),
            sets=collecting.set_names(session),
            own_set=None if model is None else model.reference_set_id,
            labels=collecting.classes(session),
        )


@router.post("/{inspection_id}/overrule")
def overrule(
    request: Request,
    service: ServiceDep,
    caller: Enrolling,
    inspection_id: Id,
    body: Annotated[OverruleIn, Form()],
) -> Response:
    """Overrule a verdict, and return the updated part of the page."""
    return render(request, "overruled", it=inspections.overrule(service, caller, inspection_id, body))


@router.post("/{inspection_id}/add-to-references")
def add_to_references(
    request: Request,
    service: ServiceDep,
    caller: Enrolling,
    inspection_id: Id,
    body: Annotated[AddToReferencesIn, Form()],
) -> Response:
    """Make the micrograph a reference, and return the confirmation."""
    image = inspections.add_to_references(service, caller, inspection_id, body)
    with service.database.read() as session:
        collected = collecting.get_set(session, body.reference_set)
        known = {collected.authentic} | {each.label for each in collected.images if each.id != image.id}
    is_new = image.label not in known
    alike = [pair for pair in alike_in_letters({image.label, *known}) if image.label in pair] if is_new else []
    meant = next((each for pair in alike for each in pair if each != image.label), None)
    return render(request, "added_reference", image=image, collected=collected, is_new=is_new, meant=meant)


def _nearest(session: Session, it: InspectionOut, model: Model | None) -> list[dict[str, Any]]:
    """Return the nearest references, each with the address of its picture if the service still has it."""
    kept: dict[str, ReferenceImage] = {}
    if model is not None and model.reference_set_id is not None:
        query = select(ReferenceImage).where(
            ReferenceImage.reference_set_id == model.reference_set_id, ReferenceImage.created <= model.created
        )
        kept = {image.name: image for image in session.scalars(query)}
    found = []
    for reference in it.nearest:
        image = kept.get(reference["name"])
        address = image and f"/v1/reference-sets/{image.reference_set_id}/images/{image.id}/micrograph.png"
        found.append(reference | {"picture": address})
    return found
