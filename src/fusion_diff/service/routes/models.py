"""`/v1/models`: the models, and the choice of the default model."""

from __future__ import annotations

from fastapi import APIRouter

from fusion_diff.service.problems import documented
from fusion_diff.service.request_bodies import Route
from fusion_diff.service.runtime import ServiceDep
from fusion_diff.service.schemas.fields import Id
from fusion_diff.service.schemas.models import ModelOut, Models
from fusion_diff.service.security import Admin, Reader

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=Route)


@router.get("", responses=documented())
def models(service: ServiceDep, caller: Reader) -> Models:
    """List the models, newest first."""
    with service.database.read() as session:
        judge = service.shelf.get(session, None)
        rows = service.shelf.all(session)
    return Models(items=[ModelOut.of(row, is_default=row.id == judge.id) for row in rows])


@router.get("/{model_id}", responses=documented(404))
def get(service: ServiceDep, caller: Reader, model_id: Id) -> ModelOut:
    """Return a model."""
    with service.database.read() as session:
        row, judge = service.shelf.get(session, model_id), service.shelf.get(session, None)
    return ModelOut.of(row, is_default=row.id == judge.id)


@router.put("/{model_id}/default", responses=documented(404, 409))
def choose(service: ServiceDep, caller: Admin, model_id: Id) -> ModelOut:
    """Make a model the default: it judges unless a request names another."""
    service.shelf.find(model_id)  # fails if the model cannot be loaded
    with service.database.write() as session:
        return ModelOut.of(service.shelf.choose(session, model_id), is_default=True)


@router.put("/{model_id}/retired", responses=documented(404, 409))
def retire(service: ServiceDep, caller: Admin, model_id: Id) -> ModelOut:
    """Retire a model, so that it is no longer offered. Its verdicts stay. The default model cannot be retired."""
    with service.database.write() as session:
        return ModelOut.of(service.shelf.retire(session, model_id, retired=True), is_default=False)


@router.delete("/{model_id}/retired", responses=documented(404))
def bring_back(service: ServiceDep, caller: Admin, model_id: Id) -> ModelOut:
    """Bring a retired model back."""
    with service.database.write() as session:
        row = service.shelf.retire(session, model_id, retired=False)
        return ModelOut.of(row, is_default=row.id == service.shelf.get(session, None).id)
