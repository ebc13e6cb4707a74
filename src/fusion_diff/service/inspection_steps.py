"""The steps of an inspection: read, judge, record. The queue runs each step in its own thread."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_diff.inspection.ledger_entry import verdict
from fusion_diff.inspection.record import to_record
from fusion_diff.inspection.run import THUMBNAIL_SIDE, Outcome
from fusion_diff.service import ledger, records
from fusion_diff.service.pictures import png
from fusion_diff.service.store import packed
from fusion_diff.service.tables import Inspection, new_id
from fusion_diff.service.uploads import Upload, read
from fusion_diff.verdict.inspector import identity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.errors import MicrographError
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.service.database import Database
    from fusion_diff.service.store import Store
    from fusion_diff.verdict.inspector import Inspector
    from fusion_diff.verdict.result import Inspection as Verdict


@dataclass(eq=False)
class Task:
    """A micrograph to inspect.

    Attributes:
        upload: the received file.
        model: id of the model that judges.
        alpha: error rate alpha.
        pixel_size_um: overrides the pixel size in the file.
        by: name of the caller, for the record.
        request_id: id of the request, for the log.
        deadline: in seconds on the monotonic clock; None for no deadline.
        id: id of its inspection.
        future: receives the recorded row or the error.
        arrived: time of arrival on the monotonic clock.
    """

    upload: Upload
    model: str
    alpha: float
    pixel_size_um: float | None
    by: str
    request_id: str | None = None
    deadline: float | None = None
    id: str = field(default_factory=new_id)
    future: Future[Inspection] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)

    def late(self, seconds: float = 0.0) -> bool:
        """Tell whether the deadline has passed, or passes within `seconds`."""
        return self.deadline is not None and time.monotonic() + seconds > self.deadline


@dataclass(eq=False)
class Finished:
    """The outcome of a task.

    Attributes:
        task: the task.
        record: the ledger line.
        verdict: the verdict; None on error.
        result: the verdict as JSON-ready values.
        thumbnail: the thumbnail as PNG.
        error: the error; None if there is a verdict.
        line_hash: hash of its ledger line of the last call of `record` that came as far as the commit.
    """

    task: Task
    record: dict[str, Any]
    verdict: Verdict | None = None
    result: dict[str, Any] = field(default_factory=dict)
    thumbnail: bytes = b""
    error: MicrographError | None = None
    line_hash: str | None = None


def read_task(task: Task, max_pixels: int) -> tuple[Micrograph, bytes]:
    """Return the micrograph of a task, and its thumbnail as PNG.

    Raises:
        MicrographError: the file cannot be read as a micrograph.
        ServiceError: the file was altered since it was received.
        OSError: the service cannot read the file.
        MemoryError: there is not enough memory.
    """
    from fusion_diff.micrograph.thumbnail import thumbnail

    upload = task.upload
    micrograph = read(upload.path, upload.name, upload.sha256, task.pixel_size_um, max_pixels)
    return micrograph, png(thumbnail(micrograph, THUMBNAIL_SIDE))


def judge(task: Task, model: Inspector, micrograph: Micrograph, thumbnail: bytes) -> Finished:
    """Return the verdict on a micrograph.

    Raises:
        FusionDiffError: the model gives no verdict.
    """
    it = replace(model.inspect(micrograph, alpha=task.alpha), source=task.upload.name)
    outcome = Outcome(Path(task.upload.name), inspection=it)
    return Finished(
        task,
        verdict(outcome, alpha=task.alpha, pixel_size_um=task.pixel_size_um),
        verdict=it,
        result=plain(outcome),
        thumbnail=thumbnail,
    )


def failed(task: Task, error: MicrographError, model: Inspector | None = None) -> Finished:
    """Return the outcome of a micrograph that could not be judged."""
    outcome = Outcome(task.upload.path, error=str(error))
    record = verdict(outcome, alpha=task.alpha, pixel_size_um=task.pixel_size_um, model=identity(model))
    return Finished(task, record | {"file": task.upload.name, "file_sha256": task.upload.sha256}, error=error)


def plain(outcome: Outcome) -> dict[str, Any]:
    """Return an inspection as the JSON-ready values of `Inspection.to_dict`."""
    told = to_record(outcome)
    return {key: value for key, value in told.items() if key not in ("format", "version", "path", "judged")}


def record(finished: Sequence[Finished], database: Database, store: Store) -> list[Inspection | None]:
    """Record outcomes in one transaction: images first, then rows and ledger lines.

    An outcome may be given again after an error: where the connection is lost during a commit, nobody knows whether
    that was done. If it was, the outcome is not recorded twice.

    Returns:
        The row of each outcome; None for those without a verdict.
    """
    stored = {each.task.id: _stored(each, store) for each in finished}
    with database.write() as session:
        tried = [each.line_hash for each in finished if each.line_hash is not None]
        held = ledger.holds(session, tried) if tried else set()
        if held:
            stored |= {row.id: row for row in records.some(session, list(stored))}
        new = [each for each in finished if each.line_hash not in held]
        lines = ledger.append(session, [each.record for each in new])
        for each, line in zip(new, lines, strict=True):
            if (row := stored[each.task.id]) is not None:
                if (first := records.under_another_name(session, row)) is not None:
                    same = f"The same bytes were inspected before under another name, as inspection {first}."
                    row.result = row.result | {"notes": [*row.result["notes"], same]}
                row.ledger_sequence = line.sequence
                session.add(row)
        session.flush()
        for each, line in zip(new, lines, strict=True):
            each.line_hash = line.hash  # from here on only the commit can fail
    return [stored[each.task.id] for each in finished]


def _stored(finished: Finished, store: Store) -> Inspection | None:
    """Store a micrograph, its evidence and its thumbnail, and return its row; None without a verdict."""
    it, task = finished.verdict, finished.task
    if it is None:
        return None
    store.put_file(task.upload.path, task.upload.sha256)
    return Inspection(
        id=task.id,
        name=task.upload.name,
        sha256=task.upload.sha256,
        score=it.score,
        decision=it.decision,
        alpha=it.alpha,
        model_sha256=it.model_sha256,
        references_sha256=it.references_sha256,
        result=finished.result,
        evidence_sha256=store.put(packed(it.evidence.values)),
        evidence_scale=it.evidence.scale,
        thumbnail_sha256=store.put(finished.thumbnail),
        by=task.by,
    )
