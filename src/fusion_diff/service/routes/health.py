"""`/healthz`, `/readyz` and `/metrics`: for monitoring."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from fusion_diff.errors import FusionDiffError, ServiceError
from fusion_diff.service.metrics_access import in_time
from fusion_diff.service.problems import UnavailableError, documented
from fusion_diff.service.runtime import ServiceDep
from fusion_diff.service.security import Reader
from fusion_diff.service.store import expect_room

router = APIRouter(tags=["health"])
_log = logging.getLogger("fusion_diff.service")
_BROKEN = "the queue has ended by a fault, or hangs; restart the service"
_threads = CapacityLimiter(2)
"""Threads for writing the metrics, because all others may be waiting for the database."""


class Health(BaseModel):
    """The health of the service."""

    status: str = "ok"


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", responses={503: documented()[503]})
async def health(service: ServiceDep) -> Health:
    """Confirm that the process answers and its threads go on. It needs none, so a blocked database does not matter."""
    if service.queue.broken:
        raise UnavailableError(_BROKEN, retry_after=5)
    return Health()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={status: documented()[status] for status in (429, 503)})
def ready(service: ServiceDep) -> Health:
    """Confirm that inspections can be made: database and store answer, files can be written, the model judges."""
    if not service.queue.running:
        raise UnavailableError(_BROKEN if service.queue.broken else "the service is shutting down", retry_after=5)
    if (step := service.queue.stuck) is not None:
        _log.warning("not ready: %s takes far too long", step)
        told = "a micrograph hangs, or the database or the store does not answer; see the log"
        raise UnavailableError(told, retry_after=5)
    try:
        service.database.check()
        service.store.check(writing=True)
        for folder in (service.settings.incoming, Path(tempfile.gettempdir())):
            expect_room(folder)
        service.shelf.check()
    except (SQLAlchemyError, OSError, FusionDiffError) as error:
        _log.warning("not ready", exc_info=error)
        raise UnavailableError(
            "the database, the store, a folder for uploads or the model is not available; see the log", retry_after=5
        ) from None
    return Health()


@router.get("/metrics", response_class=Response, responses=documented(gives="text/plain"))
async def metrics(service: ServiceDep, caller: Reader) -> Response:
    """Return the metrics for Prometheus, also while the database does not answer."""
    try:
        await in_time(service.database.check)
        service.metrics.database_up.set(1)
    except (SQLAlchemyError, ServiceError, TimeoutError):
        service.metrics.database_up.set(0)
    told = await to_thread.run_sync(generate_latest, service.metrics.registry, limiter=_threads)
    return Response(told, media_type=CONTENT_TYPE_LATEST)
