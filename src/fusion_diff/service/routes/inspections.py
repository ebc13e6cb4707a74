"""`/v1/inspections`: inspecting micrographs, finding and overruling verdicts, adding them to references."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, File, Form, Header, Query, Request, Response, UploadFile

from fusion_diff.checkpoint import NAME_LENGTH
from fusion_diff.errors import FusionDiffError
from fusion_diff.fewshot.decision import Decision
from fusion_diff.service import ledger, pictures, records, tables
from fusion_diff.service.collecting import add_image
from fusion_diff.service.inspection_steps import Task
from fusion_diff.service.problems import (
    LateError,
    TooLargeError,
    documented,
    reported,
    request_id_of,
)
from fusion_diff.service.request_bodies import Route
from fusion_diff.service.runtime import Service, ServiceDep
from fusion_diff.service.schemas.fields import Alpha, Id, Moment, PixelSize
from fusion_diff.service.schemas.inspections import (
    AddToReferencesIn,
    InspectionEntry,
    InspectionOut,
    InspectionPage,
    Inspections,
    InspectionSummary,
    OverruleIn,
)
from fusion_diff.service.schemas.references import ReferenceImageOut
from fusion_diff.service.security import Enrolling, Inspecting, Reader
from fusion_diff.service.uploads import Upload, read, receive, shown_name

router = APIRouter(prefix="/v1/inspections", tags=["inspections"], route_class=Route)
KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}
"""Headers of content that never changes."""


def _found(service: ServiceDep, inspection_id: Id) -> tables.Inspection:
    with service.database.read() as session:
        return records.get_inspection(session, inspection_id)


Found = Annotated[tables.Inspection, Depends(_found)]


@router.post("", responses=documented(404, 409, 504, 507))
async def inspect(
    request: Request,
    service: ServiceDep,
    caller: Inspecting,
    files: Annotated[list[UploadFile], File(min_length=1, description="Micrographs: TIFF, PNG, JPEG or BMP.")],
    alpha: Annotated[
        Alpha,
        Form(
            description="Error rate alpha. At most this share of authentic micrographs is expected to be called not "
            "authentic, and at most this share of the others authentic."
        ),
    ] = 0.1,
    pixel_size_um: Annotated[PixelSize | None, Form()] = None,
    model: Annotated[Id | None, Form(description="Id of the model that judges; the default model if omitted.")] = None,
    x_deadline_ms: Annotated[
        int | None, Header(ge=0, le=10**9, description="Longest wait for the answer, in milliseconds.")
    ] = None,
    request_timeout: Annotated[
        float | None, Header(ge=0, le=10**6, allow_inf_nan=False, description="The same in seconds.")
    ] = None,
) -> Inspections:
    """Inspect one or many micrographs. A file that cannot be inspected has a problem in its place in the results."""
    started = time.monotonic()
    waits = [x_deadline_ms / 1000] if x_deadline_ms is not None else []
    waits += [request_timeout] if request_timeout is not None else []
    deadline = started + min(waits) if waits else None
    most = service.settings.queue_length  # the form parser has refused more than `max_files`
    if len(files) > most:
        raise TooLargeError(
            f"{len(files)} files in one request, but at most {most} are allowed; send them in several requests"
        )
    judge = await to_thread.run_sync(_model_id, service, model)
    received: list[Upload | Exception] = []
    try:
        for file in files:
            received.append(await _receive(file, service))
        tasks = [
            Task(each, judge, alpha, pixel_size_um, caller.name, request_id_of(request), deadline)
            for each in received
            if isinstance(each, Upload)
        ]
        service.queue.submit(tasks)
    except BaseException:
        for each in received:
            if isinstance(each, Upload):
                each.discard()
        raise
    settled = iter(await _settled(tasks, request))
    outcomes = [next(settled) if isinstance(each, Upload) else each for each in received]
    failed = [each for each in outcomes if isinstance(each, BaseException)]
    told = {error: reported(error, request) for error in failed}
    if len(failed) == len(outcomes) and all(each.status >= 500 for each in told.values()):
        raise failed[0]  # no file is at fault, so the request fails as a whole
    entries = []
    for file, outcome in zip(files, outcomes, strict=True):
        name = shown_name(file.filename)
        if isinstance(outcome, BaseException):
            service.metrics.refusals.labels(str(told[outcome].status)).inc()
            entries.append(InspectionEntry(name=name, problem=told[outcome]))
        else:
            entries.append(InspectionEntry(name=name, inspection=InspectionOut.of(outcome)))
    return Inspections(results=entries)


@router.get("", responses=documented(400))
def find(
    service: ServiceDep,
    caller: Reader,
    cursor: Annotated[str | None, Query(max_length=100, description="`next_cursor` of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    decision: Annotated[Decision | None, Query(description="Decision in force: the expert's if overruled.")] = None,
    model_sha256: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
    since: Annotated[Moment | None, Query(description="Earliest time, inclusive; UTC if it has no zone.")] = None,
    until: Annotated[Moment | None, Query(description="Latest time, exclusive; UTC if it has no zone.")] = None,
    name: Annotated[str | None, Query(max_length=NAME_LENGTH, description="Part of the name, ignoring case.")] = None,
    overruled: Annotated[bool | None, Query()] = None,
) -> InspectionPage:
    """List inspections, newest first."""
    wanted = records.Filter(decision, model_sha256, since, until, name and shown_name(name), overruled)
    with service.database.read() as session:
        rows, after = records.page(session, wanted, cursor, limit)
    return InspectionPage(items=[InspectionSummary.of(row) for row in rows], next_cursor=after)


@router.get("/{inspection_id}", responses=documented(404))
def get(caller: Reader, row: Found) -> InspectionOut:
    """Return an inspection."""
    return InspectionOut.of(row)


@router.get("/{inspection_id}/heatmap.png", response_class=Response, responses=documented(404, gives="image/png"))
def heat_map(service: ServiceDep, caller: Reader, row: Found) -> Response:
    """Return the heat map with the aspect ratio of the micrograph, transparent where there is no evidence."""
    return Response(pictures.heat_map(row, service.store), media_type="image/png", headers=KEPT)


@router.get("/{inspection_id}/micrograph.png", response_class=Response, responses=documented(404, gives="image/png"))
async def micrograph(
    service: ServiceDep,
    caller: Reader,
    row: Found,
    top: Annotated[int | None, Query(ge=0, le=2**31, description="First row of a window in native pixels.")] = None,
    left: Annotated[int | None, Query(ge=0, le=2**31)] = None,
    height: Annotated[int, Query(ge=1, le=pictures.WINDOW_SIDE)] = 512,
    width: Annotated[int, Query(ge=1, le=pictures.WINDOW_SIDE)] = 512,
) -> Response:
    """Return the reduced micrograph, or a window in native pixels if `top` or `left` is given."""
    if top is None and left is None:
        picture = await to_thread.run_sync(service.store.get, row.thumbnail_sha256)
    else:
        picture = await service.slots.decode(
            caller.id, partial(_window, service, row, top or 0, left or 0, height, width)
        )
    return Response(picture, media_type="image/png", headers=KEPT)


@router.get(
    "/{inspection_id}/report.html",
    response_class=Response,
    responses=documented(404, gives="text/html"),
)
def report(service: ServiceDep, caller: Reader, row: Found) -> Response:
    """Return the report: one HTML page with embedded pictures."""
    with service.database.read() as session:
        version = ledger.version(session, row.ledger_sequence)
    page = pictures.report(row, version, service.store)
    # The page's own policy allows its one script; the header adds directives that a page cannot set.
    headers = {"Content-Security-Policy": "sandbox allow-scripts; frame-ancestors 'self'"}
    return Response(page, media_type="text/html; charset=utf-8", headers=headers)


@router.post("/{inspection_id}/overrule", responses=documented(404, 409))
def overrule(service: ServiceDep, caller: Enrolling, inspection_id: Id, body: OverruleIn) -> InspectionOut:
    """Overrule a verdict with a reason. The model's own decision withdraws an overruling. Both stay in the record."""
    with service.database.write() as session:
        row = records.overrule(session, inspection_id, body.decision, body.reason, caller.name)
    service.metrics.overruled.inc()
    return InspectionOut.of(row)


@router.post("/{inspection_id}/add-to-references", status_code=201, responses=documented(404, 409))
def add_to_references(
    service: ServiceDep, caller: Enrolling, inspection_id: Id, body: AddToReferencesIn
) -> ReferenceImageOut:
    """Add an inspected micrograph to a reference set. The next enrolment of the set uses it."""
    with service.database.write() as session:
        row = records.get_inspection(session, inspection_id)
        image = add_image(
            session,
            body.reference_set,
            name=row.name,
            label=body.label,
            group=body.group,
            sha256=row.sha256,
            pixel_size_um=row.result["pixel_size_um"],
        )
    return ReferenceImageOut.of(image)


async def _settled(tasks: list[Task], request: Request) -> list[tables.Inspection | BaseException]:
    """Return the row or the error of each task. Once the caller is gone, those that wait for the model are dropped."""

    async def drop_if_gone() -> None:
        if (await request.receive())["type"] == "http.disconnect":  # nothing else comes after the body
            for task in tasks:
                task.future.cancel()  # has no effect on one that is being judged

    watching = asyncio.create_task(drop_if_gone())
    try:
        waiting = [asyncio.wrap_future(task.future) for task in tasks]
        settled = await asyncio.gather(*waiting, return_exceptions=True)
    finally:
        watching.cancel()
    gone = "the caller closed the connection before this was judged; wait longer for the answer"
    return [LateError(gone) if isinstance(each, asyncio.CancelledError) else each for each in settled]


def _window(service: Service, row: tables.Inspection, top: int, left: int, height: int, width: int) -> bytes:
    with service.store.file(row.sha256) as path:
        whole = read(path, row.name, row.sha256, None, service.settings.max_pixels)
        return pictures.window(whole, top, left, height, width)


def _model_id(service: Service, model: str | None) -> str:
    with service.database.read() as session:
        return service.shelf.judging(session, model).id


async def _receive(file: UploadFile, service: Service) -> Upload | Exception:
    settings = service.settings
    try:
        return await to_thread.run_sync(receive, file.file, file.filename, settings.incoming, settings.max_upload_bytes)
    except (FusionDiffError, OSError) as error:
        return error
