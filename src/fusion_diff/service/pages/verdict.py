"""The page of a verdict: evidence, regions, reasons, and the forms to overrule it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Form, Request
from sqlalchemy import select
from starlette.responses import Response

from fusion_diff.fewshot.decision import Decision
from fusion_diff.inspection import draw
from fusion_diff.inspection.wording import OFFSET, number, p_value_sentences
from fusion_diff.service import collecting, pictures, records
from fusion_diff.service.pages.rendering import PageRoute, render
from fusion_diff.service.routes import inspections
from fusion_diff.service.runtime import ServiceDep
from fusion_diff.service.schemas.fields import Id, Name, Reason
from fusion_diff.service.schemas.inspections import AddToReferencesIn, InspectionOut, OverruleIn
from fusion_diff.service.schemas.references import ReferenceSetSummary
from fusion_diff.service.security import Enrolling, Reader
from fusion_diff.service.tables import Model, ReferenceImage
from fusion_diff.verdict.compared import Compared

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from fusion_diff.verdict.result import EvidenceMap

router = APIRouter(prefix="/inspections", route_class=PageRoute)
_BAR = 120
"""Half the length of a contribution bar, in pixels."""


@router.get("/{inspection_id}")
def verdict(request: Request, service: ServiceDep, caller: Reader, inspection_id: Id) -> Response:
    """Show a verdict."""
    with service.database.read() as session:
        row = records.get_inspection(session, inspection_id)
        it = InspectionOut.of(row)
        sets = [ReferenceSetSummary.of(row) for row in collecting.all_sets(session)]
        model = _model(session, it)
        return render(
            request,
            "verdict",
            it=it,
            field=_field(it),
            unit="px" if it.pixel_size_um is None else "µm",
            regions=[_region(region) for region in it.regions],
            p_values=p_value_sentences(it.p_values, Compared(**it.compared_with)),
            contributions=_contributions(
                it.contributions if it.offset is None else it.contributions | {OFFSET: it.offset}
            ),
            nearest=_nearest(session, it, model),
            heat_scale=_heat_scale(pictures.evidence(row, service.store), it.threshold),
            sets=sets,
            own_set=None if model is None else model.reference_set_id,
            labels=sorted({label for each in sets for label in (each.authentic, *each.counts)}),
        )


@router.post("/{inspection_id}/overrule")
def overrule(
    request: Request,
    service: ServiceDep,
    caller: Enrolling,
    inspection_id: Id,
    decision: Annotated[Decision, Form()],
    reason: Annotated[Reason, Form()],
) -> Response:
    """Overrule a verdict, and return the updated part of the page."""
    it = inspections.overrule(service, caller, inspection_id, OverruleIn(decision=decision, reason=reason))
    return render(request, "overruled", it=it)


@router.post("/{inspection_id}/add-to-references")
def add_to_references(
    request: Request,
    service: ServiceDep,
    caller: Enrolling,
    inspection_id: Id,
    reference_set: Annotated[Id, Form()],
    label: Annotated[Name, Form()],
    group: Annotated[Name | None, Form()] = None,
) -> Response:
    """Make the micrograph a reference, and return the confirmation."""
    body = AddToReferencesIn(reference_set=reference_set, label=label, group=group)
    image = inspections.add_to_references(service, caller, inspection_id, body)
    with service.database.read() as session:
        collected = collecting.get_set(session, reference_set)
    return render(request, "added_reference", image=image, collected=collected)


def _field(it: InspectionOut) -> str:
    field = f"{it.width} × {it.height} px"
    if it.pixel_size_um is not None:
        field += f", {number(it.width * it.pixel_size_um)} × {number(it.height * it.pixel_size_um)} µm"
    return field


def _region(region: dict[str, Any]) -> dict[str, Any]:
    """Return a region with area and position in µm if the pixel size is known, else in pixels."""
    known = region["area_um2"] is not None
    return region | {
        "area": region["area_um2"] if known else region["area_px"],
        "x": region["centroid_x_um"] if known else region["centroid_column"],
        "y": region["centroid_y_um"] if known else region["centroid_row"],
    }


def _contributions(parts: dict[str, float | None]) -> list[dict[str, Any]]:
    """Return the contributions of the kinds of evidence, strongest first, with start and length of a bar in pixels."""
    known = sorted(((name, value or 0.0) for name, value in parts.items()), key=lambda pair: -abs(pair[1]))
    longest = max((abs(value) for _, value in known), default=0.0) or 1.0
    return [
        {
            "name": name,
            "value": value,
            "start": round(_BAR + min(0.0, value) / longest * _BAR, 1),
            "length": round(abs(value) / longest * _BAR, 1),
        }
        for name, value in known
    ]


def _model(session: Session, it: InspectionOut) -> Model | None:
    """Return the row of the model that judged; None if it is gone."""
    return session.scalar(select(Model).where(Model.sha256 == it.model_sha256).order_by(Model.number.desc()).limit(1))


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


def _heat_scale(evidence: EvidenceMap, threshold: float) -> dict[str, Any]:
    """Return the colours of the heat map as gradient stops, and the position of the threshold in per cent."""
    limit = draw.heat_limit([evidence], [threshold])
    colours = draw.heat_colours()[:: 255 // 15].tolist()
    return {
        "limit": limit,
        "threshold": min(100.0, max(0.0, 100 * threshold / limit)),
        "stops": [
            {
                "at": round(100 * place / (len(colours) - 1), 1),
                "colour": f"rgb({r},{g},{b})",
                "opacity": round(a / 255, 2),
            }
            for place, (r, g, b, a) in enumerate(colours)
        ],
    }
