"""`/v1/jobs`: progress and results of audits and enrolments."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from fusion_diff.service import jobs
from fusion_diff.service.problems import documented
from fusion_diff.service.request_bodies import Route
from fusion_diff.service.runtime import ServiceDep
from fusion_diff.service.schemas.fields import Id
from fusion_diff.service.schemas.models import JobOut, Jobs
from fusion_diff.service.security import Asking, Enrolling

router = APIRouter(prefix="/v1/jobs", tags=["references"], route_class=Route)


@router.get("", responses=documented())
def find(service: ServiceDep, caller: Asking, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> Jobs:
    """List jobs, newest first."""
    with service.database.read() as session:
        return Jobs(items=[JobOut.of(row) for row in jobs.newest(session, limit)])


@router.get("/{job_id}", responses=documented(404))
def get(service: ServiceDep, caller: Asking, job_id: Id) -> JobOut:
    """Return a job. Ask again until its `state` is `done` or `failed`."""
    with service.database.read() as session:
        return JobOut.of(jobs.get_job(session, job_id))


@router.post("/{job_id}/cancel", responses=documented(404, 409))
def cancel(service: ServiceDep, caller: Enrolling, job_id: Id) -> JobOut:
    """Cancel a running job: it has failed at once, and ends at its next step. Nothing of it is kept."""
    with service.database.write() as session:
        return JobOut.of(jobs.cancel(session, job_id, caller.name))
