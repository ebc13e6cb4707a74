"""`/v1/reference-sets`: references collected, looked into, and enrolled."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from anyio import to_thread
from fastapi import APIRouter, File, Form, Request, Response, UploadFile

from fusion_diff.errors import foreseen
from fusion_diff.service import collecting, pictures, tables
from fusion_diff.service.problems import (
    ForbiddenError,
    NotFoundError,
    TooLargeError,
    documented,
    reported,
    request_id_of,
)
from fusion_diff.service.request_bodies import HoldingRoute
from fusion_diff.service.routes.inspections import KEPT
from fusion_diff.service.runtime import Service, ServiceDep
from fusion_diff.service.schemas.fields import Id, Name, PixelSize
from fusion_diff.service.schemas.models import EnrolIn, JobOut
from fusion_diff.service.schemas.references import (
    ReferenceEntry,
    ReferenceImageIn,
    ReferenceImageOut,
    References,
    ReferenceSetIn,
    ReferenceSetOut,
    ReferenceSets,
    ReferenceSetSummary,
)
from fusion_diff.service.scopes import Scope
from fusion_diff.service.security import Enrolling, Reader
from fusion_diff.service.uploads import Upload, read, read_flaw, receive, shown_name

if TYPE_CHECKING:
    from fusion_diff.micrograph import Micrograph

router = APIRouter(prefix="/v1/reference-sets", tags=["references"], route_class=HoldingRoute)


@router.post("", status_code=201, responses=documented(409))
def new_set(service: ServiceDep, caller: Enrolling, body: ReferenceSetIn) -> ReferenceSetOut:
    """Make a reference set."""
    with service.database.write() as session:
        return ReferenceSetOut.of(collecting.new_set(session, body.name, body.authentic))


@router.get("", responses=documented())
def sets(service: ServiceDep, caller: Reader) -> ReferenceSets:
    """List the reference sets, newest first."""
    with service.database.read() as session:
        return ReferenceSets(items=[ReferenceSetSummary.of(row) for row in collecting.all_sets(session)])


@router.get("/{set_id}", responses=documented(404))
def get_set(service: ServiceDep, caller: Reader, set_id: Id) -> ReferenceSetOut:
    """Return a set with its references."""
    with service.database.read() as session:
        return ReferenceSetOut.of(collecting.get_set(session, set_id))


@router.delete("/{set_id}", status_code=204, responses=documented(404))
def remove_set(service: ServiceDep, caller: Enrolling, set_id: Id) -> None:
    """Remove a set. Models enrolled on it stay."""
    with service.database.write() as session:
        session.delete(collecting.get_set(session, set_id))


@router.post("/{set_id}/images", responses=documented(404, 507))
async def add_images(
    request: Request,
    service: ServiceDep,
    caller: Enrolling,
    set_id: Id,
    files: Annotated[list[UploadFile], File(min_length=1, description="Micrographs of one class.")],
    label: Annotated[Name, Form(description="Class of all of them.")],
    group: Annotated[Name | None, Form(description="Specimen of all of them; each its own if omitted.")] = None,
    mark: Annotated[
        UploadFile | None, File(description="Flaw mask: not black where the flaw is; for one file.")
    ] = None,
    pixel_size_um: Annotated[PixelSize | None, Form()] = None,
) -> References:
    """Add references. A file that cannot be used has a problem in its place in the results."""
    if mark is not None and len(files) != 1:
        raise TooLargeError("a flaw mask belongs to one file; send each marked reference in a request of its own")
    await to_thread.run_sync(_check_set, service, set_id)
    entries = []
    for file in files:
        name = shown_name(file.filename)
        try:
            image = await service.slots.decode(
                caller.id, partial(_add, service, set_id, file, label, group, mark, pixel_size_um)
            )
            entries.append(ReferenceEntry(name=name, reference=image))
        except Exception as error:
            if not foreseen(error):
                raise
            told = reported(error, request)
            service.metrics.refusals.labels(str(told.status)).inc()
            entries.append(ReferenceEntry(name=name, problem=told))
    return References(results=entries)


@router.patch("/{set_id}/images/{image_id}", responses=documented(404))
def change_image(
    service: ServiceDep, caller: Enrolling, set_id: Id, image_id: Id, body: ReferenceImageIn
) -> ReferenceImageOut:
    """Correct class, specimen or pixel size of a reference. One with a flaw mask cannot become authentic."""
    with service.database.write() as session:
        changes = body.model_dump(exclude_unset=True)
        return ReferenceImageOut.of(collecting.change_image(session, set_id, image_id, changes))


@router.delete("/{set_id}/images/{image_id}", status_code=204, responses=documented(404))
def remove_image(service: ServiceDep, caller: Enrolling, set_id: Id, image_id: Id) -> None:
    """Remove a reference from its set."""
    with service.database.write() as session:
        session.delete(collecting.get_image(session, set_id, image_id))


@router.get(
    "/{set_id}/images/{image_id}/micrograph.png", response_class=Response, responses=documented(404, gives="image/png")
)
async def micrograph(service: ServiceDep, caller: Reader, set_id: Id, image_id: Id, native: bool = False) -> Response:
    """Return a reference as a reduced picture; with `native`, up to 2048 pixels a side for drawing a flaw mask."""
    picture, size = await service.slots.decode(caller.id, partial(_picture, service, set_id, image_id, native=native))
    return Response(picture, media_type="image/png", headers=KEPT | {"X-Native-Size": size})


@router.get(
    "/{set_id}/images/{image_id}/mark.png", response_class=Response, responses=documented(404, gives="image/png")
)
async def mark_of(service: ServiceDep, caller: Reader, set_id: Id, image_id: Id) -> Response:
    """Return the flaw mask of a reference in native pixels: white where the flaw is."""
    picture = await service.slots.decode(caller.id, partial(_mark_picture, service, set_id, image_id))
    return Response(picture, media_type="image/png")


@router.put("/{set_id}/images/{image_id}/mark", responses=documented(404, 507))
async def put_mark(
    service: ServiceDep,
    caller: Enrolling,
    set_id: Id,
    image_id: Id,
    mark: Annotated[
        UploadFile, File(description="PNG, TIFF or BMP, as large as the micrograph, not black where the flaw is.")
    ],
) -> ReferenceImageOut:
    """Set the flaw mask of a reference; an existing one is replaced."""
    return await service.slots.decode(caller.id, partial(_mark, service, set_id, image_id, mark))


@router.delete("/{set_id}/images/{image_id}/mark", status_code=204, responses=documented(404))
def remove_mark(service: ServiceDep, caller: Enrolling, set_id: Id, image_id: Id) -> None:
    """Remove the flaw mask of a reference."""
    with service.database.write() as session:
        collecting.set_mark(session, set_id, image_id, None)


@router.post("/{set_id}/audit", status_code=202, responses=documented(404, 409))
def audit(request: Request, response: Response, service: ServiceDep, caller: Enrolling, set_id: Id) -> JobOut:
    """Start an audit for wrong labels, duplicates, strange images and recurring patches. It takes as long as enrolling.

    `Location` is the address of the job. The job is done at once if exactly these references were audited before.
    """
    with service.database.read() as session:
        collected = collecting.get_set(session, set_id)
    return _begun(response, service.learning.audit(collected, request_id_of(request)))


@router.post("/{set_id}/enrol", status_code=202, responses=documented(404, 409))
def enrol(
    request: Request, response: Response, service: ServiceDep, caller: Enrolling, set_id: Id, body: EnrolIn
) -> JobOut:
    """Start an enrolment. `Location` is the address of the job, which has the model once it is done."""
    if body.default and not caller.may(Scope.admin):
        raise ForbiddenError("making a model the default needs the scope admin; leave `default` out")
    with service.database.read() as session:
        collected = collecting.get_set(session, set_id)
    job = service.learning.enrol(
        collected,
        body.name,
        difference=body.difference,
        reconstruction=body.reconstruction,
        detect_attacks=body.detect_attacks,
        default=body.default,
        caller=caller,
        request_id=request_id_of(request),
    )
    return _begun(response, job)


def _begun(response: Response, job: tables.Job) -> JobOut:
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return JobOut.of(job)


def _check_set(service: Service, set_id: str) -> None:
    with service.database.read() as session:
        collecting.get_set(session, set_id)


def _read(service: Service, row: tables.ReferenceImage) -> Micrograph:
    with service.store.file(row.sha256) as path:
        return read(path, row.name, row.sha256, row.pixel_size_um, service.settings.max_pixels)


def _picture(service: Service, set_id: str, image_id: str, *, native: bool) -> tuple[bytes, str]:
    """Return a reference as PNG, and its native size as `WIDTHxHEIGHT`."""
    from fusion_diff.inspection.run import THUMBNAIL_SIDE
    from fusion_diff.micrograph.thumbnail import thumbnail

    with service.database.read() as session:
        row = collecting.get_image(session, set_id, image_id)
    whole = _read(service, row)
    picture = pictures.png(thumbnail(whole, pictures.WINDOW_SIDE if native else THUMBNAIL_SIDE))
    return picture, f"{whole.width}x{whole.height}"


def _mark_picture(service: Service, set_id: str, image_id: str) -> bytes:
    with service.database.read() as session:
        row = collecting.get_image(session, set_id, image_id)
    if row.mark_sha256 is None:
        raise NotFoundError(f"{row.name}: no flaw is marked on it")
    with service.store.file(row.mark_sha256) as mark:
        flaw = read_flaw(mark, row.mark_sha256, _read(service, row), row.name)
    return pictures.png(flaw.astype("uint8") * 255)


def _mark(service: Service, set_id: str, image_id: str, mark: UploadFile) -> ReferenceImageOut:
    with service.database.read() as session:
        row = collecting.get_image(session, set_id, image_id)
    upload = receive(mark.file, mark.filename, service.settings.incoming, service.settings.max_upload_bytes)
    try:
        read_flaw(upload.path, upload.sha256, _read(service, row), row.name, upload.name)
        service.store.put_file(upload.path, upload.sha256)
    finally:
        upload.discard()
    with service.database.write() as session:
        return ReferenceImageOut.of(collecting.set_mark(session, set_id, image_id, upload.sha256))


def _add(
    service: Service,
    set_id: str,
    file: UploadFile,
    label: str,
    group: str | None,
    mark: UploadFile | None,
    pixel_size_um: float | None,
) -> ReferenceImageOut:
    settings = service.settings
    uploads: list[Upload] = []
    try:
        for each in (file, mark):
            if each is not None:
                uploads.append(receive(each.file, each.filename, settings.incoming, settings.max_upload_bytes))
        upload, flaw = uploads[0], (uploads[1] if mark is not None else None)
        mark_sha256 = collecting.store_image(upload, pixel_size_um, flaw, settings, service.store)
        with service.database.write() as session:
            image = collecting.add_image(
                session,
                set_id,
                name=upload.name,
                label=label,
                group=group,
                sha256=upload.sha256,
                mark_sha256=mark_sha256,
                pixel_size_um=pixel_size_um,
            )
        return ReferenceImageOut.of(image)
    finally:
        for each_upload in uploads:
            each_upload.discard()
