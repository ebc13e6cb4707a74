"""The pages of references: sets begun, filled, marked and looked through."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, UploadFile
from sqlalchemy import select
from starlette.responses import Response

from fusion_diff.micrograph.discover import IMAGE_SUFFIXES
from fusion_diff.service import collecting, jobs
from fusion_diff.service.pages.rendering import PageRoute, goto, render
from fusion_diff.service.problems import ConflictError
from fusion_diff.service.routes import models
from fusion_diff.service.routes import references as api
from fusion_diff.service.runtime import Service, ServiceDep
from fusion_diff.service.schemas import (
    Id,
    JobOut,
    ModelOut,
    Name,
    PixelSize,
    ReferenceImageOut,
    ReferenceSetIn,
    ReferenceSetOut,
    ReferenceSetSummary,
)
from fusion_diff.service.security import Enrolling, Reader
from fusion_diff.service.tables import Model

router = APIRouter(prefix="/references", route_class=PageRoute)


@router.get("")
def sets(request: Request, service: ServiceDep, caller: Reader) -> Response:
    """List the sets, and the models enrolled on them."""
    with service.database.read() as session:
        return render(
            request,
            "references",
            sets=[ReferenceSetSummary.of(row) for row in collecting.all_sets(session)],
            models=models.models(service, caller).items,
        )


@router.post("")
def new_set(
    request: Request,
    service: ServiceDep,
    caller: Enrolling,
    name: Annotated[Name, Form()],
    authentic: Annotated[Name, Form()],
) -> Response:
    """Begin a set, and go to it."""
    made = api.new_set(service, caller, ReferenceSetIn(name=name, authentic=authentic))
    return goto(request, f"/references/{made.id}")


@router.get("/{set_id}")
def one_set(request: Request, service: ServiceDep, caller: Reader, set_id: Id) -> Response:
    """Show a set with its references."""
    with service.database.read() as session:
        learned = session.scalars(select(Model).where(Model.reference_set_id == set_id).order_by(Model.number.desc()))
        return render(
            request,
            "reference_set",
            models=[ModelOut.of(row, is_default=row.is_default) for row in learned],
            suffixes=sorted(IMAGE_SUFFIXES),
            jobs=[JobOut.of(row) for row in jobs.running(session, set_id)],
            fresh=False,
            **_shown(service, set_id),
        )


@router.delete("/{set_id}")
def remove_set(request: Request, service: ServiceDep, caller: Enrolling, set_id: Id) -> Response:
    """Remove a set."""
    api.remove_set(service, caller, set_id)
    return goto(request, "/references")


@router.get("/{set_id}/images")
def images(request: Request, service: ServiceDep, caller: Reader, set_id: Id) -> Response:
    """Return the references of a set as they are now."""
    return render(request, "reference_images", **_shown(service, set_id))


@router.post("/{set_id}/images")
async def add_image(
    request: Request,
    service: ServiceDep,
    caller: Enrolling,
    set_id: Id,
    file: UploadFile,
    label: Annotated[Name, Form()],
    group: Annotated[Name | None, Form()] = None,
    mark: UploadFile | None = None,
    pixel_size_um: Annotated[PixelSize | None, Form()] = None,
) -> Response:
    """Add one reference, and return the row that says so, or what is wrong with it."""
    given = mark if mark is not None and mark.filename else None
    added = await api.add_images(request, service, caller, set_id, [file], label, group, given, pixel_size_um)
    return render(request, "reference_row", entry=added.results[0])


@router.delete("/{set_id}/images/{image_id}")
def remove_image(request: Request, service: ServiceDep, caller: Enrolling, set_id: Id, image_id: Id) -> Response:
    """Remove a reference, and return the others."""
    api.remove_image(service, caller, set_id, image_id)
    return render(request, "reference_images", **_shown(service, set_id))


@router.get("/{set_id}/images/{image_id}")
def mark_page(request: Request, service: ServiceDep, caller: Enrolling, set_id: Id, image_id: Id) -> Response:
    """Show a reference to mark the flaw on."""
    with service.database.read() as session:
        image = ReferenceImageOut.of(collecting.get_image(session, set_id, image_id))
    shown = _shown(service, set_id)
    if image.label == shown["collected"].authentic:
        raise ConflictError(
            f"{image.name} is authentic, and has no flaw to mark; give it the class of the flaw it shows"
        )
    return render(request, "mark", image=image, **shown)


@router.post("/{set_id}/images/{image_id}/mark")
def put_mark(
    request: Request, service: ServiceDep, caller: Enrolling, set_id: Id, image_id: Id, mark: UploadFile
) -> Response:
    """Mark the flaw, and go back to the set."""
    api.put_mark(service, caller, set_id, image_id, mark)
    return goto(request, f"/references/{set_id}")


@router.delete("/{set_id}/images/{image_id}/mark")
def remove_mark(request: Request, service: ServiceDep, caller: Enrolling, set_id: Id, image_id: Id) -> Response:
    """Take the mark off, and go back to the set."""
    api.remove_mark(service, caller, set_id, image_id)
    return goto(request, f"/references/{set_id}")


def _shown(service: Service, set_id: str) -> dict[str, Any]:
    """The set, and its references class by class, the authentic one first."""
    with service.database.read() as session:
        collected = ReferenceSetOut.of(collecting.get_set(session, set_id))
    images = sorted(collected.images, key=lambda image: image.name)
    classes = [(label, [image for image in images if image.label == label]) for label in collected.counts]
    return {"collected": collected, "classes": classes}
