"""`/v1/jobs`: progress and results of audits and enrolments."""

from __future__ import annotations

from fastapi import APIRouter

from fusion_diff.service import jobs
from fusion_diff.service.problems import documented
from fusion_diff.service.receiving import Route
from fusion_diff.service.runtime import ServiceDep
from fusion_diff.service.schemas.fields import Id
from fusion_diff.service.schemas.models import JobOut
from fusion_diff.service.security import Asking

router = APIRouter(prefix="/v1/jobs", tags=["references"], route_class=Route)


@router.get("/{job_id}", responses=documented(404))
def get(service: ServiceDep, caller: Asking, job_id: Id) -> JobOut:
    """Return a job. Ask again until its `state` is `done` or `failed`."""
    with service.database.read() as session:
        return JobOut.of(jobs.get_job(session, job_id))
