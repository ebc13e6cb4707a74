"""Audits and enrols collected references: one job at a time, in parallel to inspections."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass, replace
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Literal

from sqlalchemy.exc import InterfaceError, OperationalError

from fusion_diff import warn
from fusion_diff.errors import EnrolmentError, ReferenceSetError
from fusion_diff.micrograph.storage import file_behind, spilled
from fusion_diff.printable import paragraph
from fusion_diff.references import ReferenceSet
from fusion_diff.service import jobs, keys
from fusion_diff.service.model_registry import enter
from fusion_diff.service.problems import BusyError, CancelledError, ConflictError, UnavailableError, report
from fusion_diff.service.schemas.models import FindingOut
from fusion_diff.service.scopes import Scope
from fusion_diff.service.uploads import read, read_flaw, renamed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy.orm import Session

    from fusion_diff.fewshot.fusion import Difference
    from fusion_diff.service import tables
    from fusion_diff.service.database import Database
    from fusion_diff.service.keys import Caller
    from fusion_diff.service.metrics import Metrics
    from fusion_diff.service.model_registry import Shelf
    from fusion_diff.service.settings import Settings
    from fusion_diff.service.store import Store

    Progress = Callable[[int, int], None]

_HELD_BYTES = 2**29
"""Size of the references that a job holds in memory; further ones are held in temporary files."""
_REMARKS = 20
"""Most warnings about references that a job or a model keeps."""
_AGAIN_SECONDS = 1.0
_HANDOVER_SECONDS = 1.0
"""Longest wait for a job that callers may already have seen as ended: its thread ends a moment later."""
_NOT_DEFAULT = (
    "the model did not become the default, because the key that asked for it was revoked meanwhile; choose it with "
    "another key"
)
_log = logging.getLogger("fusion_diff.service")


@dataclass(frozen=True)
class Learned:
    """The result of a job.

    Attributes:
        write: records the result; called with a session and the job's id.
        folder: folder of the saved model; None if none was saved.
    """

    write: Callable[[Session, str], None]
    folder: Path | None = None


class Learning:
    """Audits and enrols reference sets, each in its own thread, which outlasts the request."""

    def __init__(self, settings: Settings, shelf: Shelf, store: Store, database: Database, metrics: Metrics) -> None:
        self._settings, self._shelf, self._store, self._database = settings, shelf, store, database
        self._metrics = metrics
        self._turn = Lock()
        self._thread: Thread | None = None
        self._job_id: str | None = None
        self._closed = Event()

    def audit(self, collected: tables.ReferenceSet, request_id: str | None) -> tables.Job:
        """Start an audit and return its job; if the same references were audited before, return that job.

        Raises:
            ConflictError: the set has no authentic reference.
            BusyError: another job is running.
        """
        from fusion_diff.trust.poisoning import audit_references

        with self._database.read() as session:
            known = jobs.known_audit(session, self._subject(collected))
        if known is not None:
            return known

        def look(progress: Progress) -> Learned:
            references, remarks = self._references(collected, progress, allow_conflicts=True)
            found = audit_references(self._shelf.base(), references, progress=progress)
            result = {
                "findings": [FindingOut.model_validate(each, from_attributes=True).model_dump() for each in found],
                "note": "; ".join(remarks) or None,
            }
            return Learned(lambda session, job_id: jobs.finish(session, job_id, result=result))

        return self._begin("audit", collected, look, request_id)

    def enrol(
        self,
        collected: tables.ReferenceSet,
        name: str,
        *,
        difference: Difference,
        reconstruction: bool,
        detect_attacks: bool,
        default: bool,
        caller: Caller,
        request_id: str | None,
    ) -> tables.Job:
        """Start an enrolment and return its job. The model is recorded together with the end of the job.

        If it is to become the default, the key of the caller has to allow that at the end too.

        Raises:
            ConflictError: the set has no authentic reference.
            BusyError: another job is running.
        """

        def learn(progress: Progress) -> Learned:
            model = self._shelf.base()
            references, remarks = self._references(collected, progress)
            model.enroll(
                references,
                difference=difference,
                reconstruction=reconstruction,
                detect_attacks=detect_attacks,
                progress=progress,
            )
            row, folder = self._shelf.save(model, name)
            row.warnings = [*row.warnings, *remarks]

            def finish(session: Session, job_id: str) -> None:
                chosen = default and keys.still_may(session, caller, Scope.admin)
                enter(session, row, jobs.kept_set(session, collected.id), default=chosen)
                note = None if chosen or not default else _NOT_DEFAULT
                jobs.finish(session, job_id, model_id=row.id, result={"note": note})

            return Learned(finish, folder)

        return self._begin("enrolment", collected, learn, request_id)

    def close(self, seconds: float) -> None:
        """Abort the running job at its next step, and wait at most this many seconds for that."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _begin(
        self,
        kind: Literal["audit", "enrolment"],
        collected: tables.ReferenceSet,
        work: Callable[[Progress], Learned],
        request_id: str | None,
    ) -> tables.Job:
        if not any(image.label == collected.authentic for image in collected.images):
            raise ConflictError(
                f"{collected.name}: the set has no authentic reference ({collected.authentic!r}); add at least one"
            )
        if not self._take_turn():
            raise BusyError("another audit or enrolment is running; try again when it is done", retry_after=10)
        try:
            with self._database.write() as session:
                job = jobs.begin(session, kind, collected.id, self._subject(collected), len(collected.images))
            self._job_id = job.id
            self._thread = Thread(
                target=self._run, args=(job.id, job.total, work, request_id), name="fusion-diff-learn", daemon=True
            )
            self._thread.start()
        except BaseException:
            self._turn.release()
            raise
        return job

    def _take_turn(self) -> bool:
        """Take the turn if nobody has it, or wait for a job that is recorded as ended and about to give it up."""
        if self._turn.acquire(blocking=False):
            return True
        with self._database.read() as session:
            ended = self._job_id is not None and jobs.get_job(session, self._job_id).state != "running"
        return ended and self._turn.acquire(timeout=_HANDOVER_SECONDS)

    def _run(self, job_id: str, total: int, work: Callable[[Progress], Learned], request_id: str | None) -> None:
        """Run a job. The next one may start as soon as this one is recorded as ended, and its thread is done."""
        try:
            with jobs.Pulse(self._database, job_id, total) as pulse:

                def progress(done: int, total: int) -> None:
                    pulse.done, pulse.total = done, total
                    if pulse.cancelled:
                        raise CancelledError("the job was cancelled")
                    if self._closed.is_set():
                        raise UnavailableError(
                            "the service was shut down before this was done; start it again", retry_after=5
                        )

                self._write_down(job_id, work(progress))
        except BaseException as error:
            self._fail(job_id, error, request_id)
        finally:
            self._turn.release()  # last, because `close` waits for the newest thread alone

    def _write_down(self, job_id: str, learned: Learned) -> None:
        """Record the result of a job, and retry while the database does not answer; see `jobs.Pulse`.

        If recording fails otherwise, or the job was cancelled, the folder of the model is removed.
        """
        while True:
            try:
                with self._database.write() as session:
                    state = jobs.state_of(session, job_id)
                    if state == "running":  # else it was cancelled, or an earlier attempt was committed
                        learned.write(session, job_id)
                if state == "failed" and learned.folder is not None:
                    shutil.rmtree(learned.folder, ignore_errors=True)
                return
            except (OperationalError, InterfaceError) as error:
                _log.warning("result of a job not recorded yet; trying again", exc_info=error)
                if self._closed.wait(_AGAIN_SECONDS):
                    if learned.folder is not None:  # the commit may have succeeded; that is unknown now
                        _log.error("%s: this model is saved, but may not be recorded", learned.folder)
                    raise
            except BaseException:
                if learned.folder is not None:
                    shutil.rmtree(learned.folder, ignore_errors=True)
                raise

    def _fail(self, job_id: str, error: BaseException, request_id: str | None) -> None:
        if isinstance(error, ReferenceSetError | EnrolmentError):  # a valid request, but not with these references
            error = ConflictError(str(error))
        told = report(error, request_id, self._metrics)
        try:
            told_so = Learned(
                lambda session, job_id: jobs.finish(session, job_id, failed=True, result=told.model_dump())
            )
            self._write_down(job_id, told_so)
        except Exception as unrecorded:  # without heartbeat the job counts as lost
            _log.error("failure of a job not recorded", exc_info=unrecorded, extra={"request_id": request_id})

    def _subject(self, collected: tables.ReferenceSet) -> str:
        """Return a digest of the references, the base model and the edition of the audit."""
        from fusion_diff.trust.poisoning import EDITION

        images: list[list[object]] = [
            [i.name, i.label, i.group, i.sha256, i.mark_sha256, i.pixel_size_um] for i in collected.images
        ]
        told = [EDITION, self._shelf.base_sha256, collected.authentic, images]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def _references(
        self, collected: tables.ReferenceSet, progress: Progress, *, allow_conflicts: bool = False
    ) -> tuple[ReferenceSet, list[str]]:
        """Read the references as a set, and return it with the warnings about them.

        What is over `_HELD_BYTES` of their pixels goes to temporary files.
        """
        with warn.collected() as told:
            micrographs, marks, held = [], [], 0
            for image in collected.images:
                progress(0, len(collected.images))  # a service that stops does not read on
                with self._store.file(image.sha256) as path:
                    micrograph = read(path, image.name, image.sha256, image.pixel_size_um, self._settings.max_pixels)
                    told[:] = [renamed(each, path, image.name) for each in told]
                if file_behind(micrograph.levels) is None:
                    if held + micrograph.levels.nbytes > _HELD_BYTES:
                        micrograph = replace(micrograph, levels=spilled(micrograph.levels))
                    else:
                        held += micrograph.levels.nbytes
                mark = None
                if image.mark_sha256 is not None:
                    with self._store.file(image.mark_sha256) as path:
                        mark = read_flaw(path, image.mark_sha256, micrograph, image.name)
                micrographs.append(micrograph)
                marks.append(mark)
            references = ReferenceSet.from_micrographs(
                micrographs,
                [image.label for image in collected.images],
                authentic=collected.authentic,
                groups=[image.group for image in collected.images],
                marks=marks,
                names=[image.name for image in collected.images],
                allow_conflicts=allow_conflicts,
            )
        remarks = [paragraph(each) for each in told[:_REMARKS]]
        if len(told) > _REMARKS:
            remarks.append(f"and {len(told) - _REMARKS} more, which are in the log")
        return references, remarks
