"""Parts of the pages for audits, enrolments and the choice of the default model."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from fusion_diff.service.pages.rendering import PageRoute, render
from fusion_diff.service.routes import jobs, models
from fusion_diff.service.routes import references as api
from fusion_diff.service.runtime import ServiceDep
from fusion_diff.service.schemas.fields import Id
from fusion_diff.service.schemas.models import EnrolIn
from fusion_diff.service.security import Admin, Enrolling, Reader

router = APIRouter(prefix="/references", route_class=PageRoute)


@router.post("/{set_id}/audit")
def audit(request: Request, response: Response, service: ServiceDep, caller: Enrolling, set_id: Id) -> Response:
    """Start an audit of a reference set, and return its progress."""
    return render(request, "job", job=api.audit(request, response, service, caller, set_id))


@router.get("/jobs/{job_id}")
def job(request: Request, service: ServiceDep, caller: Reader, job_id: Id) -> Response:
    """Return the progress or the result of a job."""
    return render(request, "job", job=jobs.get(service, caller, job_id))


@router.post("/jobs/{job_id}/cancel")
def cancel(request: Request, service: ServiceDep, caller: Enrolling, job_id: Id) -> Response:
    """Cancel a job, and return how it ended."""
    return render(request, "job", job=jobs.cancel(service, caller, job_id))


@router.post("/{set_id}/enrol")
def enrol(
    request: Request,
    response: Response,
    service: ServiceDep,
    caller: Enrolling,
    set_id: Id,
    body: Annotated[EnrolIn, Form()],
) -> Response:
    """Start an enrolment, and return its progress."""
    return render(request, "job", job=api.enrol(request, response, service, caller, set_id, body))


@router.post("/models/{model_id}/default")
def choose(request: Request, service: ServiceDep, caller: Admin, model_id: Id) -> Response:
    """Make a model the default, and return all models."""
    models.choose(service, caller, model_id)
    return render(request, "models", models=models.models(service, caller).items)


@router.post("/models/{model_id}/retire")
def retire(request: Request, service: ServiceDep, caller: Admin, model_id: Id) -> Response:
    """Retire a model, and return all models."""
    models.retire(service, caller, model_id)
    return render(request, "models", models=models.models(service, caller).items)


@router.post("/models/{model_id}/bring-back")
def bring_back(request: Request, service: ServiceDep, caller: Admin, model_id: Id) -> Response:
    """Bring a retired model back, and return all models."""
    models.bring_back(service, caller, model_id)
    return render(request, "models", models=models.models(service, caller).items)
