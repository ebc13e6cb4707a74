"""The pages of references: making, filling, marking and viewing sets."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Form, Request, UploadFile
from sqlalchemy import select
from starlette.responses import Response

from fusion_diff.micrograph.discover import IMAGE_SUFFIXES
from fusion_diff.service import collecting, jobs
from fusion_diff.service.pages.rendering import HoldingPageRoute, goto, render
from fusion_diff.service.problems import ConflictError
from fusion_diff.service.routes import models
from fusion_diff.service.routes import references as api
from fusion_diff.service.runtime import Service, ServiceDep
from fusion_diff.service.schemas.fields import Id, Name, PixelSize
from fusion_diff.service.schemas.models import JobOut, ModelOut
from fusion_diff.service.schemas.references import (
    ReferenceImageIn,
    ReferenceImageOut,
    ReferenceSetIn,
    ReferenceSetOut,
    ReferenceSetSummary,
)
from fusion_diff.service.security import Enrolling, Reader
from fusion_diff.service.tables import Model

router = APIRouter(prefix="/references", route_class=HoldingPageRoute)
_Classes: TypeAlias = list[tuple[str, list[ReferenceImageOut]]]


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
    request: Request, service: ServiceDep, caller: Enrolling, body: Annotated[ReferenceSetIn, Form()]
) -> Response:
    """Make a set, and go to its page."""
    made = api.new_set(service, caller, body)
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
    """Return the references of a set."""
    return _images(request, service, set_id)


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
    """Add one reference, and return the row with the result or the problem."""
    given = mark if mark is not None and mark.filename else None
    added = await api.add_images(request, service, caller, set_id, [file], label, group, given, pixel_size_um)
    return render(request, "reference_row", entry=added.results[0])


@router.post("/{set_id}/images/chosen/move")
def move_chosen(
    request: Request,
    service: ServiceDep,
    caller: Enrolling,
    set_id: Id,
    image: Annotated[list[Id], Form()],
    label: Annotated[Name, Form()],
) -> Response:
    """Move several references to another class, all or none, and return all references."""
    with service.database.write() as session:
        for each in image:
            collecting.change_image(session, set_id, each, {"label": label})
    return _images(request, service, set_id, f"class {label}")


@router.post("/{set_id}/images/chosen/remove")
def remove_chosen(
    request: Request, service: ServiceDep, caller: Enrolling, set_id: Id, image: Annotated[list[Id], Form()]
) -> Response:
    """Remove several references, all or none, and return the others."""
    with service.database.write() as session:
        for each in image:
            row = collecting.get_image(session, set_id, each)
            session.delete(row)
    return _images(request, service, set_id, f"class {row.label}")


@router.post("/{set_id}/images/{image_id}")
def change_image(
    request: Request,
    service: ServiceDep,
    caller: Enrolling,
    set_id: Id,
    image_id: Id,
    label: Annotated[Name, Form()],
    group: Annotated[Name | None, Form()] = None,
    pixel_size_um: Annotated[PixelSize | None, Form()] = None,
) -> Response:
    """Correct a reference, and return all references."""
    body = ReferenceImageIn(label=label, group=group, pixel_size_um=pixel_size_um)
    api.change_image(service, caller, set_id, image_id, body)
    return _images(request, service, set_id, f"edit {image_id}")


@router.delete("/{set_id}/images/{image_id}")
def remove_image(request: Request, service: ServiceDep, caller: Enrolling, set_id: Id, image_id: Id) -> Response:
    """Remove a reference, and return the others."""
    following = _following(_shown(service, set_id)["classes"], image_id)
    api.remove_image(service, caller, set_id, image_id)
    return _images(request, service, set_id, following)


@router.get("/{set_id}/images/{image_id}")
def mark_page(request: Request, service: ServiceDep, caller: Enrolling, set_id: Id, image_id: Id) -> Response:
    """Show a reference for marking its flaw."""
    with service.database.read() as session:
        image = ReferenceImageOut.of(collecting.get_image(session, set_id, image_id))
    shown = _shown(service, set_id)
    if image.label == shown["collected"].authentic:
        raise ConflictError(
            f"{image.name}: an authentic reference has no flaw to mark; give it the class of its flaw first"
        )
    return render(request, "mark", image=image, **shown)


@router.post("/{set_id}/images/{image_id}/mark")
async def put_mark(
    request: Request, service: ServiceDep, caller: Enrolling, set_id: Id, image_id: Id, mark: UploadFile
) -> Response:
    """Store the flaw mask, and go back to the set."""
    await api.put_mark(service, caller, set_id, image_id, mark)
    return goto(request, f"/references/{set_id}")


@router.delete("/{set_id}/images/{image_id}/mark")
def remove_mark(request: Request, service: ServiceDep, caller: Enrolling, set_id: Id, image_id: Id) -> Response:
    """Remove the flaw mask, and go back to the set."""
    api.remove_mark(service, caller, set_id, image_id)
    return goto(request, f"/references/{set_id}")


def _images(request: Request, service: Service, set_id: str, focus: str = "") -> Response:
    """Return the references of a set. `focus` names the element that gets the keyboard focus after the update."""
    shown = _shown(service, set_id)
    if shown["classes"] and focus.startswith("class ") and focus[6:] not in shown["collected"].counts:
        focus = f"class {shown['classes'][0][0]}"
    return render(request, "reference_images", **shown | {"focus": focus})


def _following(classes: _Classes, image_id: str) -> str:
    """Return the focus after a removal: the next reference of the class, else the previous one, else the class."""
    for label, images in classes:
        ids = [image.id for image in images]
        if image_id in ids:
            at = ids.index(image_id)
            beside = [*ids[at + 1 : at + 2], *ids[max(0, at - 1) : at]]
            return f"remove {beside[0]}" if beside else f"class {label}"
    return ""


def _shown(service: Service, set_id: str) -> dict[str, Any]:
    """Return the set and its references by class, the authentic class first."""
    with service.database.read() as session:
        collected = ReferenceSetOut.of(collecting.get_set(session, set_id))
    images = sorted(collected.images, key=lambda image: image.name)
    classes: _Classes = [(label, [image for image in images if image.label == label]) for label in collected.counts]
    return {"collected": collected, "classes": classes, "focus": ""}
