"""Parts of the pages that learn: audits, enrolments, and the choice of the model that judges."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from fusion_diff.service.pages.rendering import PageRoute, render
from fusion_diff.service.routes import models
from fusion_diff.service.routes import references as api
from fusion_diff.service.runtime import ServiceDep
from fusion_diff.service.schemas import EnrolIn, Id, Name
from fusion_diff.service.security import Admin, Enrolling, Reader

router = APIRouter(prefix="/references", route_class=PageRoute)


@router.get("/{set_id}/audit")
def audit(request: Request, service: ServiceDep, caller: Reader, set_id: Id) -> Response:
    """Return what is suspicious about the references of a set."""
    return render(request, "audit", findings=api.audit(service, caller, set_id).findings)


@router.post("/{set_id}/enrol")
def enrol(
    request: Request,
    service: ServiceDep,
    caller: Enrolling,
    set_id: Id,
    name: Annotated[Name, Form()],
    reconstruction: Annotated[bool, Form()] = False,
    detect_attacks: Annotated[bool, Form()] = False,
    default: Annotated[bool, Form()] = False,
) -> Response:
    """Enrol a set, and return what was learned."""
    body = EnrolIn(name=name, reconstruction=reconstruction, detect_attacks=detect_attacks, default=default)
    return render(request, "model", model=api.enrol(service, caller, set_id, body), fresh=True)


@router.post("/models/{model_id}/default")
def choose(request: Request, service: ServiceDep, caller: Admin, model_id: Id) -> Response:
    """Have a model judge from now on, and return all models as they are now."""
    models.choose(service, caller, model_id)
    return render(request, "models", models=models.models(service, caller).items)
