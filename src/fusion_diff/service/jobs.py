"""Jobs: audits and enrolments that outlast a request. The database holds their progress, so any process can report it.

The process that works on a job writes a heartbeat every second. A job without a heartbeat for `SILENT_SECONDS` is lost,
so no start has to clean up after a killed process. A job is cancelled by recording its end; the process that works on
it finds that at its next heartbeat.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import select, update

from fusion_diff.service.problems import CancelledError, ConflictError, NotFoundError, problem
from fusion_diff.service.tables import Job, ReferenceSet, now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from fusion_diff.service.database import Database

_BEAT_SECONDS = 1.0
SILENT_SECONDS = 30.0
"""A job without a heartbeat for this long is lost."""
_log = logging.getLogger("fusion_diff.service")


class Pulse:
    """Writes the heartbeat and the progress of a job from its own thread, while the block runs.

    Attributes:
        done: number of steps done; `total` is the number of all steps.
        cancelled: whether the job was cancelled meanwhile.
    """

    def __init__(self, database: Database, job_id: str, total: int) -> None:
        self.done, self.total, self.cancelled = 0, total, False
        self._database, self._job_id, self._ended = database, job_id, Event()
        self._thread = Thread(target=self._beat, name="fusion-diff-pulse", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_SECONDS):
            try:
                with self._database.write() as session:
                    values = {"done": self.done, "total": self.total, "heard": now()}
                    running = update(Job).where(Job.id == self._job_id, Job.state == "running")
                    self.cancelled = session.scalar(running.values(values).returning(Job.id)) is None
            except Exception as error:  # the database may answer again before the job ends
                _log.warning("progress of a job not recorded yet; trying again", exc_info=error)


def begin(
    session: Session, kind: Literal["audit", "enrolment"], reference_set_id: str, subject: str, total: int
) -> Job:
    """Add a job.

    Args:
        session: a write session.
        kind: audit or enrolment.
        reference_set_id: id of the reference set.
        subject: digest of everything that the result depends on.
        total: expected number of steps.
    """
    kept = kept_set(session, reference_set_id)
    row = Job(kind=kind, reference_set_id=kept, subject=subject, total=total, model=None)
    session.add(row)
    return row


def kept_set(session: Session, set_id: str) -> str | None:
    """Return the id of a reference set and lock the set for the session; None if it was removed."""
    return session.scalar(select(ReferenceSet.id).where(ReferenceSet.id == set_id).with_for_update(read=True))


def get_job(session: Session, job_id: str) -> Job:
    """Return a job.

    Raises:
        NotFoundError: no job has that id.
    """
    row = session.scalar(select(Job).where(Job.id == job_id))
    if row is None:
        raise NotFoundError(
            f"no job has the id {job_id}; the answer to an audit or enrolment has its address in Location"
        )
    return row


def newest(session: Session, limit: int) -> Sequence[Job]:
    """Return the jobs that began last, newest first."""
    return session.scalars(select(Job).order_by(Job.number.desc()).limit(limit)).all()


def state_of(session: Session, job_id: str) -> str | None:
    """Return the recorded state of a job, and keep it from changing until the session ends; None if there is none.

    Its reference set is locked first, as by those who remove a set with what refers to it.
    """
    set_id = session.scalar(select(Job.reference_set_id).where(Job.id == job_id))
    if set_id is not None:
        kept_set(session, set_id)
    return session.scalar(select(Job.state).where(Job.id == job_id).with_for_update())


def cancel(session: Session, job_id: str, by: str) -> Job:
    """Record a running job as failed, and return it. Nothing of it is kept.

    Args:
        session: a write session.
        job_id: id of the job.
        by: name of the caller who cancels it.

    Raises:
        NotFoundError: no job has that id.
        ConflictError: the job has ended.
    """
    state = state_of(session, job_id)
    row = get_job(session, job_id)
    if state != "running" or lost(row):
        raise ConflictError(f"the {row.kind} has ended already, so it cannot be cancelled")
    told = problem(CancelledError(f"cancelled by {by}; start it again if it is wanted"))
    finish(session, job_id, failed=True, result=told.model_dump())
    return row


def known_audit(session: Session, subject: str) -> Job | None:
    """Return the last finished audit of exactly the same references."""
    wanted = (Job.kind == "audit", Job.subject == subject, Job.state == "done")
    return session.scalar(select(Job).where(*wanted).order_by(Job.number.desc()).limit(1))


def running(session: Session, set_id: str) -> Sequence[Job]:
    """Return the running jobs of a reference set."""
    rows = session.scalars(select(Job).where(Job.reference_set_id == set_id, Job.state == "running"))
    return [row for row in rows if not lost(row)]


def lost(row: Job) -> bool:
    """Tell whether a job is marked running but has lost its process."""
    return row.state == "running" and now() - row.heard > timedelta(seconds=SILENT_SECONDS)


def finish(
    session: Session, job_id: str, *, failed: bool = False, model_id: str | None = None, result: dict[str, Any]
) -> None:
    """Record the result of a job.

    Args:
        session: a write session.
        job_id: id of the job.
        failed: whether the result is a problem.
        model_id: id of the enrolled model.
        result: JSON-ready values.
    """
    row = get_job(session, job_id)
    row.state, row.model_id, row.result, row.heard = ("failed" if failed else "done"), model_id, result, now()
    if not failed:
        row.done = row.total
