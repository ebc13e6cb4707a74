"""Parts of the pages that learn: audits, enrolments, and the choice of the model that judges."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from fusion_diff.service.pages.rendering import PageRoute, render
from fusion_diff.service.routes import jobs, models
from fusion_diff.service.routes import references as api
from fusion_diff.service.runtime import ServiceDep
from fusion_diff.service.schemas.fields import Id, Name
from fusion_diff.service.schemas.models import EnrolIn
from fusion_diff.service.security import Admin, Enrolling, Reader

router = APIRouter(prefix="/references", route_class=PageRoute)


@router.post("/{set_id}/audit")
def audit(request: Request, response: Response, service: ServiceDep, caller: Enrolling, set_id: Id) -> Response:
    """Begin to look for what is suspicious about the references of a set, and return how far that is."""
    return render(request, "job", job=api.audit(request, response, service, caller, set_id))


@router.get("/jobs/{job_id}")
def job(request: Request, service: ServiceDep, caller: Reader, job_id: Id) -> Response:
    """Return how far an audit or an enrolment is, or what came of it."""
    return render(request, "job", job=jobs.get(service, caller, job_id))


@router.post("/{set_id}/enrol")
def enrol(
    request: Request,
    response: Response,
    service: ServiceDep,
    caller: Enrolling,
    set_id: Id,
    name: Annotated[Name, Form()],
    reconstruction: Annotated[bool, Form()] = False,
    detect_attacks: Annotated[bool, Form()] = False,
    default: Annotated[bool, Form()] = False,
) -> Response:
    """Begin to enrol a set, and return how far that is."""
    body = EnrolIn(name=name, reconstruction=reconstruction, detect_attacks=detect_attacks, default=default)
    return render(request, "job", job=api.enrol(request, response, service, caller, set_id, body))


@router.post("/models/{model_id}/default")
def choose(request: Request, service: ServiceDep, caller: Admin, model_id: Id) -> Response:
    """Have a model judge from now on, and return all models as they are now."""
    models.choose(service, caller, model_id)
    return render(request, "models", models=models.models(service, caller).items)


@router.post("/models/{model_id}/retire")
def retire(request: Request, service: ServiceDep, caller: Admin, model_id: Id) -> Response:
    """Offer a model no longer, and return all models as they are now."""
    models.retire(service, caller, model_id)
    return render(request, "models", models=models.models(service, caller).items)


@router.post("/models/{model_id}/bring-back")
def bring_back(request: Request, service: ServiceDep, caller: Admin, model_id: Id) -> Response:
    """Offer a model again, and return all models as they are now."""
    models.bring_back(service, caller, model_id)
    return render(request, "models", models=models.models(service, caller).items)
