"""Learning: references that were collected, audited and enrolled; one job at a time, beside the inspections."""

from __future__ import annotations

import logging
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy.exc import InterfaceError, OperationalError

from fusion_diff.errors import (
    EnrolmentError,
    FusionDiffError,
    MicrographError,
    ReferenceSetError,
    ServiceError,
    TrustError,
)
from fusion_diff.references import ReferenceSet
from fusion_diff.service import jobs
from fusion_diff.service.problems import BusyError, ConflictError, StoppingError, report
from fusion_diff.service.shelf import enter
from fusion_diff.service.uploads import raise_fault, renamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from sqlalchemy.orm import Session

    from fusion_diff.micrograph import Micrograph
    from fusion_diff.service import tables
    from fusion_diff.service.database import Database
    from fusion_diff.service.metrics import Metrics
    from fusion_diff.service.settings import Settings
    from fusion_diff.service.shelf import Shelf
    from fusion_diff.service.store import Store
    from fusion_diff.trust.poisoning import Finding

    Progress = Callable[[int, int], None]

_AGAIN_SECONDS = 1.0
_log = logging.getLogger("fusion_diff.service")


@dataclass(frozen=True)
class Learned:
    """What came of a job.

    Attributes:
        write: writes it down, in the session and under the id of the job that it is given.
        folder: of the model that was saved; None where there is none.
    """

    write: Callable[[Session, str], None]
    folder: Path | None = None


class Learning:
    """Audits and enrols what was collected, each in a thread of its own that outlasts the request."""

    def __init__(self, settings: Settings, shelf: Shelf, store: Store, database: Database, metrics: Metrics) -> None:
        self._settings, self._shelf, self._store, self._database = settings, shelf, store, database
        self._metrics = metrics
        self._turn = Lock()
        self._thread: Thread | None = None
        self._closed = Event()

    def audit(self, collected: tables.ReferenceSet, request_id: str | None) -> tables.Job:
        """Begin to look for what is suspicious about references, and return the job; the one there was, if it is known.

        Raises:
            ConflictError: there is no authentic reference among them.
            BusyError: something else is being learned.
        """
        from fusion_diff.trust.poisoning import audit_references

        with self._database.read() as session:
            known = jobs.known_audit(session, self._subject(collected))
        if known is not None:
            return known

        def look(progress: Progress) -> Learned:
            with self._references(collected) as references:
                found = audit_references(self._shelf.base(), references, progress=progress)
            result = {"findings": [_plain(each) for each in found]}
            return Learned(lambda session, job_id: jobs.finish(session, job_id, result=result))

        return self._begin("audit", collected, look, request_id)

    def enrol(
        self,
        collected: tables.ReferenceSet,
        name: str,
        *,
        reconstruction: bool,
        detect_attacks: bool,
        default: bool,
        request_id: str | None,
    ) -> tables.Job:
        """Begin to enrol references, and return the job; with its end the model is in the records.

        Raises:
            ConflictError: there is no authentic reference among them.
            BusyError: something else is being learned.
        """

        def learn(progress: Progress) -> Learned:
            model = self._shelf.base()
            with self._references(collected) as references:
                model.enroll(
                    references, reconstruction=reconstruction, detect_attacks=detect_attacks, progress=progress
                )
            row, folder = self._shelf.save(model, name)

            def finish(session: Session, job_id: str) -> None:
                enter(session, row, jobs.kept_set(session, collected.id), default=default)
                jobs.finish(session, job_id, model_id=row.id, result={})

            return Learned(finish, folder)

        return self._begin("enrolment", collected, learn, request_id)

    def close(self, seconds: float) -> None:
        """Give up what is being learned, at its next step; what takes longer than so many seconds is left behind."""
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
                f"{collected.name}: at least one authentic reference ({collected.authentic!r}) is needed; add it first"
            )
        if not self._turn.acquire(blocking=False):
            raise BusyError("other references are being learned; try again in a moment", retry_after=10)
        try:
            with self._database.write() as session:
                job = jobs.begin(session, kind, collected.id, self._subject(collected), len(collected.images))
            self._thread = Thread(
                target=self._run, args=(job.id, job.total, work, request_id), name="fusion-diff-learn", daemon=True
            )
            self._thread.start()
        except BaseException:
            self._turn.release()
            raise
        return job

    def _run(self, job_id: str, total: int, work: Callable[[Progress], Learned], request_id: str | None) -> None:
        """Work on a job. The next one may begin as soon as this one is told to have ended."""
        try:
            with jobs.Pulse(self._database, job_id, total) as pulse:

                def progress(done: int, total: int) -> None:
                    pulse.done, pulse.total = done, total
                    if self._closed.is_set():
                        raise StoppingError("the service was shut down; start it again", retry_after=5)

                try:
                    learned = work(progress)
                finally:
                    self._turn.release()
                self._write_down(job_id, learned)
        except BaseException as error:
            self._fail(job_id, error, request_id)

    def _write_down(self, job_id: str, learned: Learned) -> None:
        """Record what came of a job, as often as it takes while the records cannot be reached; see `jobs.Pulse`.

        A model that is not in the records is not left in its folder.
        """
        while True:
            try:
                with self._database.write() as session:
                    if jobs.get_job(session, job_id).state == "running":  # or it was committed and not told
                        learned.write(session, job_id)
                return
            except (OperationalError, InterfaceError) as error:
                _log.warning("not recorded yet", exc_info=error)
                if self._closed.wait(_AGAIN_SECONDS):
                    if learned.folder is not None:  # it may be in the records: nobody can tell at present
                        _log.error("%s: learned, and not known to be recorded", learned.folder)
                    raise
            except BaseException:
                if learned.folder is not None:
                    shutil.rmtree(learned.folder, ignore_errors=True)
                raise

    def _fail(self, job_id: str, error: BaseException, request_id: str | None) -> None:
        if isinstance(error, ReferenceSetError | EnrolmentError):  # right as asked for, but not with these references
            error = ConflictError(str(error))
        told = report(error, request_id, self._metrics)
        try:
            told_so = Learned(
                lambda session, job_id: jobs.finish(session, job_id, failed=True, result=told.model_dump())
            )
            self._write_down(job_id, told_so)
        except Exception as unrecorded:  # the job is silent from now on, and taken for lost
            _log.error("not recorded", exc_info=unrecorded, extra={"request_id": request_id})

    def _subject(self, collected: tables.ReferenceSet) -> str:
        """Return what tells whether references, or the model or the audit that look at them, were changed."""
        import hashlib
        import json

        from fusion_diff.trust.poisoning import EDITION

        images: list[list[object]] = [
            [i.name, i.label, i.group, i.sha256, i.mark_sha256, i.pixel_size_um] for i in collected.images
        ]
        told = [EDITION, self._shelf.base_sha256, collected.authentic, images]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    @contextmanager
    def _references(self, collected: tables.ReferenceSet) -> Iterator[ReferenceSet]:
        """Give the references as a set, whose files stay where they are read from until the end of the block."""
        with ExitStack() as files:
            micrographs, marks = [], []
            for image in collected.images:
                path = files.enter_context(self._store.file(image.sha256))
                micrograph = read(path, image.name, image.sha256, image.pixel_size_um, self._settings.max_pixels)
                micrographs.append(micrograph)
                mark = None
                if image.mark_sha256 is not None:
                    path = files.enter_context(self._store.file(image.mark_sha256))
                    mark = read_flaw(path, image.mark_sha256, micrograph, image.name)
                marks.append(mark)
            yield ReferenceSet.from_micrographs(
                micrographs,
                [image.label for image in collected.images],
                authentic=collected.authentic,
                groups=[image.group for image in collected.images],
                marks=marks,
                names=[image.name for image in collected.images],
            )


def read(path: Path, name: str, sha256: str, pixel_size_um: float | None, max_pixels: int) -> Micrograph:
    """Read a micrograph that errors call by its name, and whose bytes have to have this digest.

    Raises:
        MicrographError: it cannot be read.
        ServiceError: it was altered.
        OSError: the service cannot read it.
        MemoryError: the same.
    """
    from fusion_diff.micrograph import load_microstructure_data

    try:
        return load_microstructure_data(path, pixel_size_um=pixel_size_um, max_pixels=max_pixels, sha256=sha256)
    except TrustError:
        raise _altered(name, sha256) from None
    except FusionDiffError as error:
        raise_fault(error)
        raise MicrographError(renamed(error, path, name)) from error


def read_flaw(path: Path, sha256: str, micrograph: Micrograph, name: str) -> NDArray[np.bool_]:
    """Read the mark of a reference that errors call by its name; its bytes have to have this digest.

    Raises:
        ReferenceSetError: it cannot be read, or does not fit.
        ServiceError: it was altered.
        OSError: the service cannot read it.
        MemoryError: the same.
    """
    from fusion_diff.references.marks import read_mark

    try:
        return read_mark(path, micrograph, name, sha256)
    except TrustError:
        raise _altered(f"the mark of {name}", sha256) from None
    except FusionDiffError as error:
        raise_fault(error)
        raise ReferenceSetError(renamed(error, path, "the mark")) from error


def _altered(name: str, sha256: str) -> ServiceError:
    return ServiceError(f"{name}: {sha256} was altered in the store; restore it from a copy")


def _plain(found: Finding) -> dict[str, Any]:
    """Return a finding as JSON-ready values, as the API shows it."""
    names = ("reference", "label", "kind", "strength", "sentence", "grave")
    box = None if found.box is None else [int(each) for each in found.box]
    return {name: getattr(found, name) for name in names} | {"box": box}
